"""Programs of kernels: run at once, or recorded and run again and again.

A recorded program is a pass through the model with nothing of Python left in it. Its arrays come
from an arena that hands out the lowest free place first and takes back what Python drops, so that
a layer works in the memory that the layer before has just used; every run writes them again. What
changes from pass to pass is read from arrays that the caller keeps in place.

This file does not say which kernels a pass has: `launcher.py` records what operators launch.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...files.tensor import HostArray
from ...model.free_list import FreeList
from .compiler import CompiledKernel, address_of
from .thread_pool import KernelThreadPool

ALIGNMENT = 64

ChunkCount = int | NDArray[np.int64]  # an array of one number may change between runs


class Program:
    """Steps that a thread pool runs one after the other."""

    def __init__(self, arena: Arena | None = None) -> None:
        """
        Args:
            arena: where its arrays lie; it lives as long as the program.
        """
        self.arena = arena
        self._kept_alive: list[HostArray] = []  # records, and what they point to
        self._addresses: list[int] = []  # of the records
        self._steps = np.empty(0, np.int64)  # the same, as a thread pool reads them

    def add(self, kernel: CompiledKernel, chunks: ChunkCount, arguments: dict[str, Any]) -> None:
        record = step(kernel, chunks, arguments)
        self._kept_alive.append(record)
        if not isinstance(chunks, int):
            self._kept_alive.append(chunks)
        self._addresses.append(address_of(record))

    def run(self, thread_pool: KernelThreadPool) -> None:
        if len(self._steps) != len(self._addresses):
            self._steps = np.array(self._addresses, np.int64)
        thread_pool.execute(self._steps)


def step(
    kernel: CompiledKernel, chunks: ChunkCount, arguments: dict[str, Any]
) -> NDArray[np.int64]:
    """Return a step's record in eight-byte words: the kernel's address, the address of the number
    of chunks, the arguments, and the number of chunks if it is fixed."""
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
        memory = np.empty(size + ALIGNMENT, np.uint8)
        self._memory = memory[-address_of(memory) % ALIGNMENT :][:size]
        self._free = FreeList()
        self._free.add(0, size)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        """Return an array that gives its memory back when it is dropped.

        Raises:
            MemoryError: no free range is large enough.
        """
        kind = np.dtype(dtype)
        size = -(-prod(shape) * kind.itemsize // ALIGNMENT) * ALIGNMENT
        start = self._free.take(size)
        if start is None:
            raise MemoryError
        memory = np.asarray(_Allocation(self, start, size))
        return memory[: prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def give_back(self, start: int, size: int) -> None:
        self._free.give_back(start, size)

    def view(self, array: HostArray) -> HostArray:
        """Return an array over the same memory that does not hold it: the next program that runs
        may overwrite it.

        Raises:
            NotRecordableError: the array is not from this arena.
        """
        start = address_of(array) - address_of(self._memory)
        if not 0 <= start < self.size:
            raise NotRecordableError
        memory = self._memory[start : start + array.nbytes]
        return memory.view(array.dtype).reshape(array.shape)

    def address(self, start: int) -> int:
        return address_of(self._memory) + start


class _Allocation:
    """A range of an arena; it lives as long as an array over it does."""

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
