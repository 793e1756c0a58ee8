"""Reads a model that is one GGUF file, or split into several, as `gguf-split` of llama.cpp does.

Every part says its number and how many there are; the first holds the metadata. Parts are found by
their names, beside the one that was named, whichever it was. What one file holds is read by
`gguf_file.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..files.fields import Fields
from ..files.gguf_names import Part
from ..files.regular_file import short_repr
from ..files.tensor import StoredTensor
from .gguf_file import MAX_TENSORS, GgufFile, GgufTensor

MAX_PARTS = 99_999  # their names have five digits


class GgufModel:
    """The headers of all parts, read and checked against each other.

    Raises:
        ModelFileError: a file is damaged, a part is missing, or one is of another model.
        UnsupportedModelError: a version, byte order or type is not read here.
    """

    def __init__(self, path: Path) -> None:
        self.files = _parts(GgufFile(path))
        self._file_of: dict[str, GgufFile] = {}  # by tensor
        for file in self.files:
            for name in file.tensors:
                if self._file_of.setdefault(name, file) is not file:
                    raise ModelFileError(
                        f"{file.path}: tensor {short_repr(name)}: name is also in "
                        f"{self._file_of[name].path.name}, expected each tensor in one part"
                    )
            if len(self._file_of) > MAX_TENSORS:
                raise ModelFileError(
                    f"{file.path}: tensor count is more than {MAX_TENSORS:,} with the parts "
                    "before it, expected at most that"
                )
        _check_tensor_count(self.files[0], len(self._file_of))

    @property
    def path(self) -> Path:
        return self.files[0].path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.files[0].metadata

    @property
    def tensors(self) -> dict[str, GgufTensor]:
        return {name: file.tensors[name] for name, file in self._file_of.items()}

    @property
    def version(self) -> str:
        """Identifies the bytes of all parts by sizes and times: hashing would be reading them."""
        status = [file.path.stat() for file in self.files]
        return "|".join(f"{one.st_size}|{one.st_mtime_ns}" for one in status)

    def stored_tensor(self, name: str, row_multiple: int = 1) -> StoredTensor:
        """Return a tensor to be read in tiles, as `GgufFile.stored_tensor` does."""
        return self._file_of[name].stored_tensor(name, row_multiple)


def _parts(file: GgufFile) -> list[GgufFile]:
    """Return all parts of the model that a file is part of, in order."""
    count = _count(file)
    if count <= 1:
        return [file]
    name = Part.parsed(file.path.name)
    if name is None or name.count != count:
        raise ModelFileError(
            f"{file.path}: split.count is {count}, so it is one of {count} parts, which are found "
            f"by their names: expected the name to end in -NNNNN-of-{count:05}.gguf"
        )
    paths = [file.path.with_name(name.file(number)) for number in range(1, count + 1)]
    for number, path in enumerate(paths, 1):
        if not path.exists():
            raise ModelFileError(
                f"{file.path}: part {number} of {count} is missing, expected {path.name} beside it"
            )
    parts: list[GgufFile] = []
    for number, path in enumerate(paths, 1):
        part = file if path == file.path else GgufFile(path)
        _check_place(part, number, count)
        if parts:  # one after the other, so that only a few headers are in memory at once
            part.metadata.clear()
        parts.append(part)
    return parts


def _count(file: GgufFile) -> int:
    return Fields(file.path, file.metadata).integer("split.count", 1, low=0, high=MAX_PARTS)


def _check_place(part: GgufFile, number: int, count: int) -> None:
    """Check that a part is the one that its name says."""
    fields = Fields(part.path, part.metadata)
    if _count(part) != count:
        fields.fail("split.count", f"{count}, as the other parts have it")
    fields.integer("split.no", low=number - 1, high=number - 1)


def _check_tensor_count(first: GgufFile, found: int) -> None:
    fields = Fields(first.path, first.metadata)
    expected = fields.integer("split.tensors.count", found, low=0)
    if expected != found:
        fields.fail("split.tensors.count", f"{found:,}, as all parts together have")
