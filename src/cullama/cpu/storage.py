"""Where weights lie in memory: fresh memory, or a file of converted weights mapped into it.

Both hand out arrays one after the other, aligned to cache lines. Fresh memory is taken in large
slabs, because numpy asks for huge pages only for large pieces, and streaming weights through 4 KiB
pages costs a tenth of the bandwidth.

A file is worth it for quantised models: dequantising takes seconds, mapping the result takes
milliseconds, the pages are shared by every process that runs the model, and nothing is copied.
It is written under a passing name and renamed when complete, so a file that has its final name is
whole.
"""

from __future__ import annotations

import hashlib
import os
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from ..tensor import HostArray

ALIGNMENT = 64  # bytes: a cache line
SLAB = 256 << 20  # bytes; what is not touched costs no memory
HEADER = 4096  # bytes before the first array of a file: its mark and its full size
MARK = b"cullama weights 1\n"  # raise the number when layouts change: old files are then rebuilt


class Storage(Protocol):
    is_filled: bool  # whether the arrays come with their values already in them

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class Memory:
    """Fresh memory."""

    is_filled = False

    def __init__(self) -> None:
        self._slab = np.empty(0, np.uint8)
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        size = prod(shape) * np.dtype(dtype).itemsize
        if self._used + size > len(self._slab):
            self._slab, self._used = np.empty(max(SLAB, size + ALIGNMENT), np.uint8), 0
            self._used = -self._slab.ctypes.data % ALIGNMENT
        piece = self._slab[self._used : self._used + size]
        self._used = _aligned(self._used + size)
        return piece.view(dtype).reshape(shape)

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class WeightFile:
    """A file of converted weights, mapped: read-only where it is complete, written where not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_filled = _is_complete(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._passing = path.with_suffix(f".{os.getpid()}.part")
        self._open = path if self.is_filled else self._passing
        self._end = HEADER
        if not self.is_filled:
            self._passing.write_bytes(b"\0" * HEADER)

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        start = self._end
        size = prod(shape) * np.dtype(dtype).itemsize
        self._end = _aligned(start + size)
        if not self.is_filled:
            _reserve(self._passing, start, self._end - start)
        array: HostArray = np.memmap(
            self._open, np.dtype(dtype), "r" if self.is_filled else "r+", offset=start, shape=shape
        )
        return array.view(np.ndarray)

    def finish(self) -> None:
        """Make a file just written permanent."""
        if self.is_filled:
            return
        with self._passing.open("r+b") as file:
            file.write(_header(self._end))
            os.fsync(file.fileno())
        os.replace(self._passing, self.path)

    def abandon(self) -> None:
        self._passing.unlink(missing_ok=True)


def weight_file(folder: Path, conversion_key: str, layout: str) -> WeightFile:
    """The file for one model file in one layout. Those of its earlier versions are removed.

    The key is "path|version": files whose path part is the same are versions of one model.
    """
    source = conversion_key.partition("|")[0]
    family = f"{_digest(source)}-{layout}"
    path = folder / f"{family}-{_digest(conversion_key)}.weights"
    for other in folder.glob(f"{family}-*.weights"):
        if other != path:
            other.unlink(missing_ok=True)
    return WeightFile(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _header(size: int) -> bytes:
    return MARK + f"{size}\n".encode()


def _is_complete(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(HEADER).rstrip(b"\0") == _header(path.stat().st_size)
    except OSError:
        return False


def _reserve(path: Path, start: int, size: int) -> None:
    """Room on the disk before the memory is written to: a full disk met later is a bus error."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), start, size)
        else:
            file.seek(start)
            file.write(b"\0" * size)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
