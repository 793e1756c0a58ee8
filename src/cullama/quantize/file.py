"""A GGUF file on its way to the disk: under a passing name until it is whole.

It knows the order of the parts of such a file, and what disks do; the bytes of the parts are
gguf-py's. It does not know what the tensors are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CullamaError, UsageError
from .plan import Target
from .rows import Bytes, row_bytes

if TYPE_CHECKING:
    import gguf

HEADER_ROOM = 8 << 20  # bytes: more than the headers of known models take
MAX_FLOAT32 = 3.4e38  # of 32 bits


@dataclass(frozen=True)
class Contents:
    """What a file is to hold."""

    architecture: str
    fields: Mapping[str, Any]  # metadata; arrays are lists of strings, or of numpy
    targets: Sequence[Target]

    @property
    def data_bytes(self) -> int:
        return sum(row_bytes(target) * target.source.shape[0] for target in self.targets)


def check_free(path: Path, source: Path, overwrite: bool) -> None:
    """Whether a file may get this name.

    Raises:
        UsageError: it is taken, by the source even, or there is no such folder.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{str(path.parent)!r} is no folder, expected one to write {path.name} in")
    if not path.exists():
        return
    is_source = source.exists() and path.samefile(source)
    if path.is_dir() or is_source:
        what = "the model itself" if is_source else "a folder"
        raise UsageError(f"{path} is {what}; choose another name with --output")
    if not overwrite:
        raise UsageError(f"{path} exists; add --force to replace it, or choose another with -o")


def write(path: Path, contents: Contents, rows_of: Callable[[Target], Bytes]) -> None:
    """The whole file; `rows_of` gives a tensor's bytes, one tensor after the other.

    Raises:
        CullamaError: the disk is full, or does not let us write.
    """
    with _landing(path, contents.data_bytes) as part:
        import gguf

        writer = gguf.GGUFWriter(part, contents.architecture)
        try:
            _describe(writer, contents)
            for target in contents.targets:
                writer.write_tensor_data(rows_of(target))
        finally:
            writer.close()


@contextmanager
def _landing(path: Path, size: int) -> Iterator[Path]:
    """A passing name beside `path`; what is there then gets the name, or is removed."""
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        _check_room(path, size + HEADER_ROOM)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # before the rename: a name never without its bytes
        os.replace(part, path)
    except OSError as error:
        raise CullamaError(
            f"cannot write {path}: {error.strerror or error}; "
            f"make room for {size / 1e6:,.0f} MB there, or name another place with --output"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise CullamaError(
            f"{path} needs {size / 1e6:,.0f} MB, and there are {free / 1e6:,.0f} MB free; "
            "make room, or name another place with --output"
        )


def _describe(writer: gguf.GGUFWriter, contents: Contents) -> None:
    """The header: metadata, and a list of the tensors to come."""
    import gguf

    for key, value in contents.fields.items():
        _add(writer, key, value)
    for target in contents.targets:
        shape, kind = target.source.shape, gguf.GGMLQuantizationType[target.dtype]
        size = row_bytes(target) * shape[0]
        writer.add_tensor_info(target.name, shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A field of metadata. Arrays of nothing are left out: GGUF has none."""
    import gguf

    kinds = gguf.GGUFValueType
    if isinstance(value, bool | int | float | str):
        writer.add_key_value(key, value, kinds[_kind(value)])
    elif isinstance(value, list) and value:
        writer.add_key_value(key, value, kinds.ARRAY, kinds.STRING)
    elif len(value):
        writer.add_key_value(key, value.tolist(), kinds.ARRAY, kinds[value.dtype.name.upper()])


def _kind(value: bool | int | float | str) -> str:
    """Numbers are of 32 bits, whole ones without a sign, as llama.cpp expects; else of 64."""
    match value:
        case bool():
            return "BOOL"
        case str():
            return "STRING"
        case float():
            return "FLOAT64" if MAX_FLOAT32 < abs(value) < inf else "FLOAT32"
    if value < 0:
        return "INT64"
    return "UINT32" if value < 1 << 32 else "UINT64"
