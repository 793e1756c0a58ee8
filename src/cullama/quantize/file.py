"""Writes a GGUF file under a temporary name, and renames it when it is whole.

gguf-py writes the parts; here is their order, and what is done when the disk is full. It does not
know what the tensors are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CullamaError, UsageError
from .plan import Target
from .rows import RowBytes, row_bytes

if TYPE_CHECKING:
    import gguf

HEADER_ROOM = 8 << 20  # bytes; headers of known models are smaller
MAX_FLOAT32 = 3.4e38


@dataclass(frozen=True)
class Contents:
    """What to write to a file."""

    architecture: str
    fields: Mapping[str, Any]  # metadata; arrays are lists of strings, or numpy arrays
    targets: Sequence[Target]

    @property
    def data_bytes(self) -> int:
        return sum(row_bytes(target) * target.source.shape[0] for target in self.targets)


def check_free(path: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Check that a file may be written under this name.

    Raises:
        UsageError: a file or one of the sources is there, or there is no such folder.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"{str(path.parent)!r} is not a folder, expected one to write {path.name} in"
        )
    if not path.exists():
        return
    is_source = any(source.exists() and path.samefile(source) for source in sources)
    if path.is_dir() or is_source:
        what = "the model itself" if is_source else "a folder"
        raise UsageError(f"{path} is {what}; choose another name with --output")
    if not overwrite:
        raise UsageError(f"{path} exists; add --force to replace it, or choose another with -o")


def write(path: Path, contents: Contents, rows_of: Callable[[Target], RowBytes]) -> None:
    """Write the whole file; `rows_of` returns a tensor's bytes, called in order.

    Raises:
        CullamaError: the disk is full, or cannot be written to.
    """
    with _renamed_when_whole(path, contents.data_bytes) as part:
        import gguf

        writer = gguf.GGUFWriter(part, contents.architecture)
        try:
            _describe(writer, contents)
            for target in contents.targets:
                writer.write_tensor_data(rows_of(target))
        finally:
            writer.close()


@contextmanager
def _renamed_when_whole(path: Path, size: int) -> Iterator[Path]:
    """Yield a temporary path; rename its file to `path` at the end, or remove it on an error."""
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        needed, free = size + HEADER_ROOM, shutil.disk_usage(path.parent).free
        if free < needed:
            raise CullamaError(
                f"{path} needs {needed / 1e6:,.0f} MB, and there are {free / 1e6:,.0f} MB free; "
                "make room, or name another place with --output"
            )
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # before the rename, so that a crash leaves no half file
        os.replace(part, path)
    except OSError as error:
        raise CullamaError(
            f"cannot write {path}: {error.strerror or error}; "
            f"make room for {size / 1e6:,.0f} MB there, or name another place with --output"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _describe(writer: gguf.GGUFWriter, contents: Contents) -> None:
    """Write the header: metadata, and the list of tensors."""
    import gguf

    kinds = gguf.GGUFValueType
    for key, value in contents.fields.items():
        if isinstance(value, bool | int | float | str):
            writer.add_key_value(key, value, kinds[_kind(value)])
        elif isinstance(value, list) and value:
            writer.add_key_value(key, value, kinds.ARRAY, kinds.STRING)
        elif len(value):  # GGUF has no empty arrays
            element_kind = kinds[value.dtype.name.upper()]
            writer.add_key_value(key, value.tolist(), kinds.ARRAY, element_kind)
    for target in contents.targets:
        shape, kind = target.source.shape, gguf.GGMLQuantizationType[target.dtype]
        size = row_bytes(target) * shape[0]
        writer.add_tensor_info(target.name, shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _kind(value: bool | int | float | str) -> str:
    """Return the type of a value: 32 bits, unsigned, as llama.cpp expects, or else 64 bits."""
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
