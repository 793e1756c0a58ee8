"""Checksums depend on every byte, on their order, and on nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cullama.files import checksum
from cullama.files.checksum import sha256_of, tree_checksum

PIECE = 64


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "PIECE", PIECE)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3])
def test_every_byte_counts(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "file", bytes(number % 251 for number in range(size))
    path.write_bytes(content)
    right = tree_checksum(path)
    assert len(right) == 64
    assert tree_checksum(path) == right
    changed = {right}
    for place in range(size):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        changed.add(tree_checksum(path))
    path.write_bytes(content + b"\0")
    changed.add(tree_checksum(path))
    assert len(changed) == size + 2


def test_pieces_in_another_order_are_another_file(tmp_path: Path) -> None:
    one, other = b"a" * PIECE, b"b" * PIECE
    (tmp_path / "one").write_bytes(one + other)
    (tmp_path / "other").write_bytes(other + one)
    assert tree_checksum(tmp_path / "one") != tree_checksum(tmp_path / "other")


def test_what_lies_before_the_start_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"header" + b"x" * 100)
    (tmp_path / "other").write_bytes(b"HEADER" + b"x" * 100)
    assert tree_checksum(tmp_path / "one", 6) == tree_checksum(tmp_path / "other", 6)


def test_sha256_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"x" * 1000).hexdigest()
