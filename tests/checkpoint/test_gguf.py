"""GGUF models opened: RoPE divisors wherever they lie, names, and tensors of something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from split_gguf import copy_gguf, write_gguf

from cullama.checkpoint.opening import open_checkpoint
from cullama.errors import ModelFileError, UnsupportedModelError

DIVISORS = np.array([1, 2, 4, 8], np.float32)  # one for each pair of a head of eight


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_model, tmp_path_factory.mktemp("whole") / "tiny.gguf")


@pytest.mark.parametrize(
    "names",
    [["rope_freqs.weight"], ["blk.0.rope_freqs.weight", "blk.1.rope_freqs.weight"]],
    ids=["once", "for each layer"],
)
def test_rope_divisors_are_read_once_or_for_each_layer(
    whole: Path, tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = copy_gguf(whole, tmp_path / "m.gguf", dict.fromkeys(names, DIVISORS))
    assert open_checkpoint(path).config.rope.divisors == (1.0, 2.0, 4.0, 8.0)
    assert not caplog.records


def test_rope_divisors_that_differ_from_layer_to_layer_are_refused(
    whole: Path, tmp_path: Path
) -> None:
    more = {"blk.0.rope_freqs.weight": DIVISORS, "blk.1.rope_freqs.weight": DIVISORS + 1}
    with pytest.raises(UnsupportedModelError, match=r"'blk\.1\.rope_freqs\.weight'.*all layers"):
        open_checkpoint(copy_gguf(whole, tmp_path / "m.gguf", more))


def test_a_tensor_under_both_formats_names_is_refused(whole: Path, tmp_path: Path) -> None:
    more = {"model.norm.weight": np.ones(32, np.float32)}
    with pytest.raises(ModelFileError, match=r"given twice, also as 'output_norm\.weight'"):
        open_checkpoint(copy_gguf(whole, tmp_path / "m.gguf", more))


def test_a_tensor_of_something_else_costs_a_warning(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"v.patch_embd.weight": np.ones((3, 4), np.float32)}
    checkpoint = open_checkpoint(copy_gguf(whole, tmp_path / "m.gguf", more))
    assert checkpoint.tensors.keys() == open_checkpoint(whole).tensors.keys()
    assert "'v.patch_embd.weight'" in caplog.text
