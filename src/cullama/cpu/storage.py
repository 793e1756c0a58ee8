"""Where weights lie in memory: fresh memory, or a file of converted weights mapped into it.

Both hand out arrays one after the other, aligned to cache lines. Fresh memory is taken in large
slabs, because numpy asks for huge pages only for large pieces, and streaming weights through 4 KiB
pages costs a tenth of the bandwidth.

A file is worth it for quantised models: dequantising takes seconds, mapping the result takes
milliseconds, the pages are shared by every process that runs the model, and nothing is copied.
It is written under a passing name and renamed when complete, so a file that has its final name is
whole. Its header holds a checksum, which `cullama doctor` verifies; a start, which must stay short,
compares sizes.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike

from ..files.checksum import tree_checksum
from ..files.tensor import HostArray

ALIGNMENT = 64  # bytes: a cache line
SLAB = 256 << 20  # bytes; what is not touched costs no memory
HEADER = 4096  # bytes before the first array of a file: its mark, its full size, its checksum
MARK = b"cullama weights 2\n"  # raise the number when layouts change: old files are then rebuilt

CHECKSUM_DIGITS = 64

ABANDONED_AFTER = 24 * 3600  # seconds: then the process that converted weights was killed


class Storage(Protocol):
    is_filled: bool  # whether the arrays come with their values already in them

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray: ...

    def finish(self) -> Path | None:
        """Everything is taken and filled; the file that keeps it from now on, if it is new."""

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
            slab = np.empty(max(SLAB, size) + ALIGNMENT, np.uint8)
            self._slab, self._used = slab[-slab.ctypes.data % ALIGNMENT :], 0
        piece = self._slab[self._used : self._used + size]
        self._used = _aligned(self._used + size)
        return piece.view(dtype).reshape(shape)

    def finish(self) -> None:
        return None

    def abandon(self) -> None:
        pass


class WeightFile:
    """A file of converted weights, mapped: read-only where it is complete, written where not."""

    def __init__(self, path: Path, room: int) -> None:
        """`room`: bytes that all arrays will take, for a file yet to be written.

        Raises:
            OSError: the file cannot be written, or the disk has too little room.
        """
        self.path = path
        self.is_filled = _is_complete(path)
        self._end = HEADER
        self._file = path if self.is_filled else path.with_suffix(f".{os.urandom(8).hex()}.part")
        if not self.is_filled:
            path.parent.mkdir(parents=True, exist_ok=True)
            for part in path.parent.glob("*.part"):  # those being written are touched all the time
                with suppress(OSError):
                    if time.time() - part.stat().st_mtime > ABANDONED_AFTER:
                        part.unlink()
            self._reserve(HEADER + room)

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        start = self._end
        self._end = _aligned(start + prod(shape) * np.dtype(dtype).itemsize)
        mode: Literal["r", "r+"] = "r" if self.is_filled else "r+"
        array: HostArray = np.memmap(self._file, np.dtype(dtype), mode, offset=start, shape=shape)
        return array.view(np.ndarray)

    def finish(self) -> Path | None:
        """Make a file just written permanent."""
        if self.is_filled:
            return None
        with self._file.open("r+b") as file:
            file.truncate(self._end)
            file.write(_header(self._end, tree_checksum(self._file, HEADER)))
            os.fsync(file.fileno())
        os.replace(self._file, self.path)
        return self.path

    def abandon(self) -> None:
        """Remove what was not finished; does nothing afterwards."""
        if not self.is_filled:
            self._file.unlink(missing_ok=True)

    def _reserve(self, size: int) -> None:
        """Room on the disk before memory is written to: a full disk met later is a bus error."""
        try:
            with self._file.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    for _ in range(0, size, SLAB):
                        file.write(bytes(SLAB))
        except OSError:
            self.abandon()
            raise


def weight_file(folder: Path, conversion_key: str, layout: str, room: int) -> WeightFile:
    """The file for one model file in one layout. Those of its earlier versions are removed.

    The key is "path|version": files whose path part is the same are versions of one model.
    """
    source = conversion_key.partition("|")[0]
    family = f"{_digest(source)}-{layout}"
    path = folder / f"{family}-{_digest(conversion_key)}.weights"
    for other in folder.glob(f"{family}-*.weights"):
        if other != path:
            other.unlink(missing_ok=True)
    return WeightFile(path, room)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _header(size: int, checksum: str) -> bytes:
    return MARK + f"{size}\n{checksum}\n".encode()


def _checksum_in(path: Path) -> str | None:
    """Return the checksum in a file's header; None where the file is not complete."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER).rstrip(b"\0")
        checksum = header[-CHECKSUM_DIGITS - 1 : -1].decode(errors="replace")
        return checksum if header == _header(path.stat().st_size, checksum) else None
    except OSError:
        return None


def _is_complete(path: Path) -> bool:
    return _checksum_in(path) is not None


def is_as_written(path: Path) -> bool:
    """Return whether a file of converted weights holds what was written to it: reads all of it.

    One that is not complete, or of an earlier version, is never used, so nothing is wrong with it.
    """
    checksum = _checksum_in(path)
    return checksum is None or checksum == tree_checksum(path, HEADER)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
