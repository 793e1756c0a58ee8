"""Launches a counted kernel and checks what it does to memory, in one run.

    kernel = CheckedKernel(Path("rms_norm.ptx"), "rms_norm_f32")
    kernel.count(rows, 128, [out, x, weight, width, 1e-5])
    kernel.faults      # races, and reads of shared memory that nothing wrote

The rules of shadow.h decide what is in order: `__syncthreads`, `__syncwarp`, the wait for an
asynchronous copy, and between blocks a fence with an atomic. Shuffles and votes order no memory.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from pathlib import Path

from ..counting.counts import CountedKernel, Latencies
from ..counting.stretches import Access
from ..ptx import Source

FAULTS = ("race of threads", "race of lanes", "race of blocks", "unwritten", "open copy")


@dataclass(frozen=True)
class AccessPlace:
    """One access to memory by one thread."""

    access: Access
    source: Source | None
    thread: int  # within its block
    block: tuple[int, int, int]


@dataclass(frozen=True)
class MemoryFault:
    """What is wrong between two accesses of one place; `earlier` is None where nothing wrote it."""

    kind: str  # of FAULTS
    earlier: AccessPlace | None
    later: AccessPlace
    address: int
    count: int  # times that it was met


class CheckedKernel(CountedKernel):
    """A counted kernel whose launches check memory, too, while `is_checking`."""

    def __init__(self, ptx: Path | str, kernel: str, *, is_alone: bool = True) -> None:
        super().__init__(ptx, kernel, is_alone=is_alone)
        self.is_checking = True
        self._grid = (1, 1, 1)
        self._library.counted_faults.restype = ctypes.c_char_p
        self._library.counted_writer.argtypes = [ctypes.c_ulonglong]

    def _begin(self, sample: int, latencies: Latencies, grid: tuple[int, ...]) -> None:
        self._library.counted_check(int(self.is_checking))
        x, y, z = (*grid, 1, 1)[:3]
        self._grid = (x, y, z)
        super()._begin(sample, latencies, grid)

    @property
    def faults(self) -> list[MemoryFault]:
        """Return what the last launch did wrong, each pair of accesses once."""
        return [self._fault(*row) for row in json.loads(self._library.counted_faults())]

    def writer(self, address: int) -> Source | None:
        """Return the line that wrote a byte of global memory last; None if nothing did."""
        number = self._library.counted_writer(address)
        return self.reader.source_of(number - 1) if number else None

    def _fault(self, kind: int, first: int, second: int, *rest: int) -> MemoryFault:
        thread, its_thread, block, its_block, address, count = rest
        earlier = self._place(first, thread, block) if first else None
        later = self._place(second, its_thread, its_block)
        return MemoryFault(FAULTS[kind], earlier, later, address, count)

    def _place(self, number: int, thread: int, block: int) -> AccessPlace:
        x, y, _ = self._grid
        at = block - 1
        where = (at % x, at // x % y, at // x // y)
        access = self.reader.accesses[number - 1]
        return AccessPlace(access, self.reader.source_of(number - 1), thread, where)
