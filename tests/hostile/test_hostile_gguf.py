"""Mutants of GGUF files are refused: a slice of `make soak-files`, and every known attack."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import gguf_mutants
import large_files
import pytest
from gguf_root_causes import BEYOND, ROOT_CAUSES, hyperparameters, model
from mutation import attack, is_named

from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ModelFileError

SEED = 20250607

LARGE = {"a million strings of é": "one string too many"}


def test_mutants_are_refused_by_name_or_read_as_gguf_py_reads_them(tmp_path: Path) -> None:
    mutants = gguf_mutants.mutants(300, SEED, tmp_path / "valid.gguf")
    tally = attack(mutants, tmp_path / "model.gguf", gguf_mutants.read, agree=gguf_mutants.agree)
    assert not tally.complaints, f"seed {SEED}"
    assert 10 < tally.accepted < 200  # some of each, or the mutants are no good


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_a_header_reads_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr("cullama.checkpoint.gguf_file.READ_BYTES", piece)
    path = tmp_path / "model.gguf"
    gguf_mutants.valid_file(path, random.Random(SEED))
    assert gguf_mutants.agree(path, gguf_mutants.read(path), "") == ""


@pytest.mark.parametrize("cause", ROOT_CAUSES)
def test_a_known_attack_is_refused_by_name(cause: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content, message in ROOT_CAUSES[cause]:
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            open_checkpoint(path)
        assert is_named(str(caught.value), path, (message,)), caught.value


def test_a_hyperparameter_beyond_its_bound_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    cases = hyperparameters(tmp_path / "valid.gguf")
    assert len(cases) == sum(map(len, BEYOND.values()))
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            open_checkpoint(path)
        assert is_named(str(caught.value), path, (message,)), caught.value


def test_the_model_behind_the_hyperparameter_mutants_is_valid(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(model(tmp_path / "valid.gguf"))
    assert open_checkpoint(tmp_path / "model.gguf").config.layers == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_large_headers_are_refused_in_a_second_and_little_memory(tmp_path: Path) -> None:
    large_files.assert_refused_cheaply(tmp_path, "GGUF", LARGE)
