"""GGUF models in several files: any part opens them all, and each is the one it claims to be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from split_gguf import part_name, split_gguf, write_gguf

from cullama import LLM, SamplingParams
from cullama.checkpoint import gguf_parts
from cullama.checkpoint.checkpoint import Checkpoint
from cullama.checkpoint.gguf_file import GgufFile
from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ModelFileError, ModelNotFoundError


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in one file."""
    return write_gguf(tiny_model, tmp_path_factory.mktemp("whole") / "tiny.gguf")


def refusal(path: Path, *named: str) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in named:
        assert word in message
    return message


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.config == other.config
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.read(), other.tensors[name].read())


@pytest.mark.parametrize("first_has_tensors", [True, False])
def test_any_part_opens_the_whole_model(
    whole: Path, tmp_path: Path, first_has_tensors: bool
) -> None:
    parts = split_gguf(whole, tmp_path, first_has_tensors=first_has_tensors)
    for part in parts:
        checkpoint = open_checkpoint(part)
        assert_same(checkpoint, open_checkpoint(whole))
        assert checkpoint.path == parts[0]
        assert checkpoint.files == tuple(parts)


def test_what_a_part_says_is_dropped_before_the_next_is_read(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header may take a hundred megabytes, and a model may have thousands of parts."""
    opened: list[GgufFile] = []

    def open_part(path: Path) -> GgufFile:
        assert not any(file.metadata for file in opened[2:])
        opened.append(GgufFile(path))
        return opened[-1]

    monkeypatch.setattr(gguf_parts, "GgufFile", open_part)
    [*_, last] = split_gguf(whole, tmp_path, shares=(2, 2, 2, 2))
    assert len(gguf_parts.GgufModel(last).files) == len(opened) == 5


def test_a_split_model_writes_what_the_whole_one_writes(whole: Path, tmp_path: Path) -> None:
    last = split_gguf(whole, tmp_path)[-1]
    texts = []
    for path in (whole, last):
        with LLM(path, backend="cpu:numpy", keep_converted=False) as llm:
            assert llm.name == "tiny.gguf"
            texts.append(
                llm.generate("Once upon a time", SamplingParams(max_tokens=8, seed=1)).text
            )
    assert texts[0] == texts[1]


def test_a_folder_of_parts_is_one_model(whole: Path, tmp_path: Path) -> None:
    split_gguf(whole, tmp_path)
    assert_same(open_checkpoint(tmp_path), open_checkpoint(whole))


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named_whichever_is_opened(
    whole: Path, tmp_path: Path, missing: int
) -> None:
    parts = split_gguf(whole, tmp_path)
    gone = parts.pop(missing - 1)
    gone.unlink()
    for path in (*parts, tmp_path):
        refusal(path, f"part {missing} of 3 is missing", gone.name)


def test_parts_in_each_others_place_are_refused(whole: Path, tmp_path: Path) -> None:
    _, second, third = split_gguf(whole, tmp_path)
    spare = tmp_path / "spare"
    second.rename(spare)
    third.rename(second)
    spare.rename(third)
    refusal(second, second.name, "split.no is 2, expected a whole number from 1 to 1")


def test_a_part_twice_is_refused(whole: Path, tmp_path: Path) -> None:
    _, second, third = split_gguf(whole, tmp_path)
    shutil.copy(second, third)
    refusal(second, third.name, "split.no is 1")


def test_a_part_under_another_name_is_refused_with_the_name_it_needs(
    whole: Path, tmp_path: Path
) -> None:
    first = split_gguf(whole, tmp_path)[0]
    for name in ("model.gguf", "tiny-00001-of-00002.gguf"):
        refusal(first.rename(tmp_path / name), "one of 3 parts", "-NNNNN-of-00003.gguf")
        first = tmp_path / name


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        (2, "split.count", 4),
        (2, "split.count", None),
        (2, "split.no", None),
        (2, "split.no", 0),
        (1, "split.no", 7),
        (1, "split.tensors.count", 20),
        (1, "split.tensors.count", -1),
    ],
)
def test_a_part_that_does_not_fit_the_others_is_named_with_its_field(
    whole: Path, tmp_path: Path, number: int, field: str, value: Any
) -> None:
    parts = split_gguf(whole, tmp_path, changes={number: {field: value}})
    refusal(parts[2], parts[number - 1].name, field)


def test_the_count_of_tensors_may_be_left_out(whole: Path, tmp_path: Path) -> None:
    parts = split_gguf(whole, tmp_path, changes={1: {"split.tensors.count": None}})
    assert_same(open_checkpoint(parts[0]), open_checkpoint(whole))


def test_a_tensor_in_two_parts_is_refused(whole: Path, tmp_path: Path) -> None:
    parts = split_gguf(whole, tmp_path / "a")
    others = split_gguf(whole, tmp_path / "b", shares=(4, 10))
    shutil.copy(others[1], parts[1])
    refusal(parts[0], parts[1].name, "name is also in", parts[0].name)


def test_a_damaged_part_is_named(whole: Path, tmp_path: Path) -> None:
    parts = split_gguf(whole, tmp_path)
    parts[1].write_bytes(parts[1].read_bytes()[:-1000])
    refusal(parts[0], parts[1].name, "end of the data")


def test_a_claim_of_very_many_parts_is_refused_at_the_first_that_is_missing(
    whole: Path, tmp_path: Path
) -> None:
    first = split_gguf(whole, tmp_path, changes={1: {"split.count": 65_535}})[0]
    first = first.rename(tmp_path / part_name("tiny", 1, 65_535))
    refusal(first, "part 2 of 65535 is missing")


def test_converted_weights_are_of_all_parts(whole: Path, tmp_path: Path) -> None:
    parts = split_gguf(whole, tmp_path)
    keys = {open_checkpoint(part).conversion_key for part in parts}
    assert len(keys) == 1
    split_gguf(whole, tmp_path / "again", shares=(5, 8))
    for path in (tmp_path / "again").iterdir():
        shutil.copy(path, tmp_path)
    assert open_checkpoint(parts[0]).conversion_key not in keys


def test_several_models_in_a_folder_are_listed(whole: Path, tmp_path: Path) -> None:
    split_gguf(whole, tmp_path)
    shutil.copy(whole, tmp_path / "other.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models.*other\.gguf, tiny-00001-of-0000"):
        open_checkpoint(tmp_path)
