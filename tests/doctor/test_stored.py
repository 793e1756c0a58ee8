"""Files that cullama keeps are verified by checksums, and damaged ones named with the remedy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cullama.cpu.storage import weight_file
from cullama.doctor.findings import Fact
from cullama.doctor.model import examine_model
from cullama.doctor.stored import damaged_blobs, stored_files
from cullama.hub import DEFAULT_MODEL


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path))
    return tmp_path


def facts() -> dict[str, Fact]:
    return {fact.name: fact for fact in stored_files()}


def convert(cache: Path, name: str) -> Path:
    file = weight_file(cache / "converted", f"/models/{name}|1", "float32", 1 << 16)
    file.take((100, 30), np.float32)[:] = 1
    path = file.finish()
    assert path is not None
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_nothing_is_said_where_nothing_is_kept(cache: Path) -> None:
    assert facts() == {}


def test_the_default_model_is_held_against_its_hash(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"the default model"
    model = replace(DEFAULT_MODEL, model_sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr("cullama.doctor.stored.DEFAULT_MODEL", model)
    path = cache / "models" / DEFAULT_MODEL.file_name
    path.parent.mkdir()
    path.write_bytes(content)
    assert facts()["default"].problem is None
    flip(path, 3)
    problem = facts()["default"].problem
    assert problem is not None
    assert "damaged" in problem.found
    assert "cullama models --remove default" in problem.remedy


def test_converted_weights_are_held_against_their_checksums(cache: Path) -> None:
    sound, damaged = convert(cache, "sound"), convert(cache, "damaged")
    assert facts()["converted"].problem is None
    assert facts()["converted"].found.startswith("2 files, ")
    flip(damaged, -100)
    problem = facts()["converted"].problem
    assert problem is not None
    assert damaged.name in problem.found
    assert sound.name not in problem.found
    assert "cullama models --remove converted" in problem.remedy


def test_a_model_from_the_hub_is_held_against_its_blobs_names(
    tmp_path: Path, tiny_model: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in tiny_model.iterdir():
        content = file.read_bytes()
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / file.name).symlink_to(blob)
    weights = snapshot / "model.safetensors"
    assert examine_model(str(snapshot))[0].problem is None
    assert damaged_blobs([weights]) == []
    flip(weights, -5)
    assert damaged_blobs([weights]) == [weights]
    problem = examine_model(str(snapshot))[0].problem
    assert problem is not None
    assert "damaged" in problem.found


def test_a_file_that_is_no_blob_has_no_hash_to_be_held_against(tiny_model: Path) -> None:
    assert damaged_blobs([tiny_model / "model.safetensors"]) == []
