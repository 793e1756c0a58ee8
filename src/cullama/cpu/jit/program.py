"""Steps for a team: kernels with their arguments, run at once or recorded and replayed.

A recorded program is a pass through the model with nothing of Python left in it. Its arrays come
from an arena that hands out the lowest free place first and takes back what Python drops, so that
a layer works in the memory that the layer before has just used; they are written anew by every
replay. What changes from pass to pass is read from arrays that the caller keeps in place.
"""

from __future__ import annotations

from bisect import insort
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...files.tensor import HostArray
from .compiler import CompiledKernel, address_of
from .thread_pool import KernelThreadPool

ALIGNMENT = 64

Count = int | NDArray[np.int64]


class Program:
    """Steps in a row."""

    def __init__(self, arena: Arena | None = None) -> None:
        """`arena`: where its arrays lie; it is held as long as the program is."""
        self.arena = arena
        self._kept: list[HostArray] = []  # records, and what they point to
        self._steps: list[int] = []
        self._row = np.empty(0, np.int64)  # the same, as a team reads them

    def add(self, kernel: CompiledKernel, chunks: Count, arguments: dict[str, Any]) -> None:
        """`chunks`: how many, or an array of one number that may change between runs."""
        record = step(kernel, chunks, arguments)
        self._kept.append(record)
        if not isinstance(chunks, int):
            self._kept.append(chunks)
        self._steps.append(address_of(record))

    def run(self, thread_pool: KernelThreadPool) -> None:
        if len(self._row) != len(self._steps):
            self._row = np.array(self._steps, np.int64)
        thread_pool.execute(self._row)


def step(kernel: CompiledKernel, chunks: Count, arguments: dict[str, Any]) -> NDArray[np.int64]:
    """Eight-byte words: the kernel, where the number of chunks is, and its arguments."""
    words = kernel.record(arguments)
    record = np.empty(3 + len(words) // 8, np.int64)
    record[0] = kernel.address
    record[1] = address_of(record) + 8 * (len(record) - 1)
    record[2:-1] = np.frombuffer(words, np.int64)
    if isinstance(chunks, int):
        record[-1] = chunks
    else:
        record[1] = address_of(chunks)
    return record


class NotRecordableError(Exception):
    """A step does something that is no kernel."""


class Arena:
    """Memory for the arrays of recorded programs; they may share it, since one runs at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        whole = np.empty(size + ALIGNMENT, np.uint8)
        self._memory = whole[-address_of(whole) % ALIGNMENT :][:size]
        self._free: list[tuple[int, int]] = [(0, size)]  # (start, size), in order; none touch

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        """An array that returns its place when it is dropped; fresh memory where there is none."""
        kind = np.dtype(dtype)
        size = -(-prod(shape) * kind.itemsize // ALIGNMENT) * ALIGNMENT
        for index, (start, room) in enumerate(self._free):
            if room >= size:
                self._free[index : index + 1] = [(start + size, room - size)] * (room > size)
                piece = np.asarray(_Piece(self, start, size))
                return piece[: prod(shape) * kind.itemsize].view(kind).reshape(shape)
        raise MemoryError

    def give_back(self, start: int, size: int) -> None:
        insort(self._free, (start, size))
        joined: list[tuple[int, int]] = []
        for start, size in self._free:
            if joined and sum(joined[-1]) == start:
                start, size = joined[-1][0], joined.pop()[1] + size
            joined.append((start, size))
        self._free = joined

    def view(self, array: HostArray) -> HostArray:
        """The same place, but not held: what is there is gone when the next program runs."""
        start = address_of(array) - address_of(self._memory)
        if not 0 <= start < self.size:
            raise NotRecordableError
        place = self._memory[start : start + array.nbytes]
        return place.view(array.dtype).reshape(array.shape)

    def address(self, start: int) -> int:
        return address_of(self._memory) + start


class _Piece:
    """Lives as long as an array over it does."""

    def __init__(self, arena: Arena, start: int, size: int) -> None:
        self._arena, self._start, self._size = arena, start, size
        self.__array_interface__ = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (arena.address(start), False),
        }

    def __del__(self) -> None:
        self._arena.give_back(self._start, self._size)
