"""Metadata and tensors of any kind are written as given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from cullama.checkpoint.gguf_file import GgufFile
from cullama.files.tensor import StoredTensor
from cullama.quantize.file import Contents, write
from cullama.quantize.plan import Target

WORDS = {
    "general.author": "Ada 🦙",
    "general.nothing": "",
    "general.flag": True,
    "general.count": 4_000_000_000,
    "general.negative": -5,
    "general.large": (1 << 64) - 1,
    "general.share": 0.5,
    "general.wide": -1e300,
    "general.endless": float("inf"),
    "general.flags": np.array([True, False]),
    "general.small": np.array([1, -2, 3], np.int8),
    "general.scores": np.array([0.1, -1e9], np.float32),
    "general.tags": ["a", "", "漢"],
}


def written(path: Path, words: dict[str, object]) -> GgufFile:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    source = StoredTensor("x", (2, 3), "F32", lambda: iter([numbers]))
    contents = Contents("llama", words, [Target(source, "x.weight", "F32")])
    write(path, contents, lambda target: numbers.view(np.uint8))
    return GgufFile(path)


def test_any_metadata_is_written_and_read_back(tmp_path: Path) -> None:
    metadata = written(tmp_path / "m.gguf", WORDS).metadata
    assert metadata.pop("general.architecture") == "llama"
    assert metadata.keys() == WORDS.keys()
    value: Any
    for key, value in WORDS.items():
        assert type(metadata[key]) is type(value), key
        assert np.array_equal(metadata[key], value), key


def test_numbers_are_of_the_kinds_that_llama_cpp_expects(tmp_path: Path) -> None:
    fields = gguf.GGUFReader(written(tmp_path / "m.gguf", WORDS).path).fields
    kinds = {key.removeprefix("general."): fields[key].types[-1].name for key in WORDS}
    assert (kinds["count"], kinds["negative"], kinds["large"]) == ("UINT32", "INT64", "UINT64")
    assert (kinds["share"], kinds["wide"], kinds["scores"]) == ("FLOAT32", "FLOAT64", "FLOAT32")
    assert (kinds["flag"], kinds["small"], kinds["tags"]) == ("BOOL", "INT8", "STRING")


def test_empty_arrays_are_left_out(tmp_path: Path) -> None:
    empty = {"general.tags": [], "general.scores": np.zeros(0, np.float32)}
    assert written(tmp_path / "m.gguf", empty).metadata.keys() == {"general.architecture"}


def test_a_tensor_lies_where_the_header_says(tmp_path: Path) -> None:
    file = written(tmp_path / "m.gguf", WORDS)
    assert file.tensors["x.weight"].offset % 32 == 0
    assert file.stored_tensor("x.weight").read().tolist() == [[0, 1, 2], [3, 4, 5]]
