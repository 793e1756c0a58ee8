"""Mutants of safetensors files are refused: a slice of `make soak-files`, and what it misses."""

from __future__ import annotations

import sys
from pathlib import Path

import large_files
import numpy as np
import pytest
import safetensors_mutants
from mutation import Mutant, attack, is_named
from safetensors.numpy import save

from cullama.checkpoint.safetensors_file import SafetensorsFile
from cullama.errors import ModelFileError

SEED = 20250607

LARGE = {"65,537 tensors": "number is 65,537", "a header of empty lists": "entry is not JSON"}


def test_mutants_are_refused_by_name_or_read_as_the_library_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    mutants = safetensors_mutants.mutants(300, SEED)
    tally = attack(mutants, file, safetensors_mutants.read, agree=safetensors_mutants.agree)
    assert not tally.complaints, f"seed {SEED}"
    assert 20 < tally.accepted < 200  # some of each, or the mutants are no good


def test_the_attack_notices_every_kind_of_failure(tmp_path: Path) -> None:
    """Otherwise no complaint would mean nothing."""

    def read(path: Path) -> object:
        match path.read_bytes():
            case b"escape":
                raise KeyError("a")
            case b"unnamed":
                raise ModelFileError("something is wrong, expected better")
            case b"other field":
                raise ModelFileError(f"{path}: tensor 'a': dtype is 7, expected F32")
            case b"valid":
                raise ModelFileError(f"{path}: shape is 7, expected a list")
        return None

    whats = ["escape", "unnamed", "other field"]
    mutants = [Mutant(what, what.encode(), ("shape",)) for what in whats]
    mutants.append(Mutant("accepted", b"accepted", is_broken=True))
    mutants += [Mutant("valid", b"valid", is_valid=True), Mutant("differs", b"differs")]
    tally = attack(
        mutants, tmp_path / "file", read, agree=lambda *it: "" if it[2] else "it differs"
    )
    assert [it.split(":")[0] for it in tally.escapes] == ["escape"]
    assert [it.split(",")[0] for it in tally.unnamed] == ["unnamed", "other field"]
    assert [it.split(":")[0] for it in tally.valid_refused] == ["valid"]
    assert "differs: it differs" in tally.differing
    assert tally.broken_accepted == ["accepted"]
    assert (tally.count, tally.accepted) == (6, 2)


@pytest.mark.parametrize(
    ("message", "is_good"),
    [
        ("tensor 'a': shape is 7, expected a list", True),
        ("tensor 'a': dtype is 7, expected a list", False),
        ("tensor 'a': shape is 7", False),
        ("tensor 'a': shape\nis 7, expected a list", False),
        ("tensor 'a': shape is \x1b, expected a list", False),
        ("shape is " + "7" * 9999 + ", expected a list", False),
    ],
)
def test_a_refusal_names_field_found_and_expected_in_a_line(message: str, is_good: bool) -> None:
    path = Path("folder/model.safetensors")
    assert is_named(f"{path}: {message}", path, ("shape",)) == is_good
    assert not is_named(message, path, ("shape",))


# A header, its data, and what is message of it; each was, or might have been, overlooked.
ODD = {
    "minus zero": ('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', "shape is"),
    "leading zero": (
        '{"a":{"dtype":"F32","shape":[00],"data_offsets":[0,0]}}',
        "entry is not JSON",
    ),
    "zero and more": (
        '{"a":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}}',
        "shape is",
    ),
    "half of a surrogate": ('{"\\udc00":{}}', "tensor name is broken"),
    "a line in a name": ('{"a\nb":{}}', "tensor name is"),
    "backwards": ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', "data_offsets is"),
    "six bits": ('{"a":{"dtype":"F6_E2M3","shape":[1],"data_offsets":[0,1]}}', "shape is"),
    "two headers": ("{}{}", "end is"),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{}}', "name is given twice"),
    "the same name escaped": (
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}',
        "tensor 'a': name is given twice",
    ),
    "a member twice among thousands": (
        '{"a":{' + ",".join(f'"{index}":0' for index in range(6000)) + ',"5999":0}}',
        "tensor 'a': '5999' is given twice",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_malformed_json_that_parsers_accept_is_refused(name: str, tmp_path: Path) -> None:
    text, message = ODD[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_mutants.framed(text.encode()))
    with pytest.raises(ModelFileError, match=message):
        SafetensorsFile(path)


def test_metadata_does_not_count_as_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.checkpoint.safetensors_file.MAX_ENTRIES", 3)
    path = tmp_path / "model.safetensors"
    three = {name: np.ones(2, np.float32) for name in "abc"}
    path.write_bytes(save(three, {"format": "np"}))
    assert SafetensorsFile(path).tensors.keys() == three.keys()
    path.write_bytes(save({**three, "d": np.ones(2, np.float32)}))
    with pytest.raises(ModelFileError, match="tensor 'd': number is 4 or more, expected at most 3"):
        SafetensorsFile(path)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_large_headers_are_refused_in_a_second_and_little_memory(tmp_path: Path) -> None:
    large_files.assert_refused_cheaply(tmp_path, "safetensors", LARGE)
