"""Launches counted kernels, and reads their counts: for the launch, its instructions, its lines.

    kernel = CountedKernel(Path("rms_norm.ptx"), "rms_norm_bf16")
    counts = kernel.count(rows, 128, [out, x, weight, width, 1e-5])
    counts.sectors, counts.coalescing, counts.loads_in_flight, counts.waits

With `sample` only some blocks run, and stand for all: the arrays are then not whole.
"""

from __future__ import annotations

import ctypes
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from ..build import build_text
from ..kernel import BuiltModule, Extent
from ..ptx import Source, alone, parse
from .costs import CAS_LOOP, KINDS, cost_of, is_cas_loop
from .stretches import Access, Stretch
from .translator import EVERY_KERNEL, CountingTranslator, slots_of

SPACES = ("global", "shared", "local")
SECTOR = 32  # bytes
WARP = 32

# Rows of a report, by the fields of Counts.
_BLOCKS = ("blocks", "cycles", "longest_block", "thread_cycles", "load_cycles", "byte_cycles")
_SECTORS = (
    *("block_loads", "block_stores", "dram_loads", "dram_stores"),
    *("first_loads", "first_stores"),
)


@dataclass(frozen=True)
class Latencies:
    """Cycles until a load's result can be used, by where the data lies."""

    shared: int = 29
    l1: int = 36
    l2: int = 270
    dram: int = 660


@dataclass(frozen=True)
class AccessCounts:
    """What the warps did at one instruction that accesses memory."""

    access: Access
    source: Source | None
    executions: int  # by a warp
    lanes: dict[str, int]  # that took part, by memory space
    distinct: int  # global: bytes that differ within a warp's access
    sectors: int  # global: of 32 bytes, for each warp's access
    ideal_sectors: int  # global: if the distinct bytes lay side by side
    shared_executions: int
    passes: int  # shared: times that the banks are gone through
    ideal_passes: int  # shared: without bank conflicts
    same_address: int  # lanes beyond the first at one address

    @property
    def requested(self) -> int:
        """Return the bytes of all lanes."""
        return sum(self.lanes.values()) * self.access.bytes

    def bytes(self, space: str) -> int:
        return self.lanes[space] * self.access.bytes

    @property
    def stores(self) -> bool:
        return self.access.kind in ("store", "atomic", "copy store")


@dataclass
class LineCounts:
    """What the warps executed of one source line."""

    slots: int = 0  # machine instructions
    idle_slots: float = 0.0  # of these, by the share of lanes that took no part
    kinds: Counter[str] = field(default_factory=Counter)  # PTX instructions; and CAS_LOOP
    waits: int = 0  # cycles of all threads
    sectors: int = 0  # of global memory, that warps asked for
    passes: int = 0  # through the banks of shared memory


@dataclass(frozen=True)
class Counts:
    """The counters of one launch, of the blocks that ran."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    blocks: int  # that ran
    cycles: int  # from a block's begin to its last thread's end, of all blocks together
    longest_block: int
    thread_cycles: int
    load_cycles: int  # loads of global memory under way, of all threads
    byte_cycles: int
    block_loads: int  # sectors that are new to their block
    block_stores: int
    dram_loads: int  # of these, sectors that L2 does not hold
    dram_stores: int
    first_loads: int  # of these, the first block's
    first_stores: int
    kinds: dict[str, int]  # PTX instructions executed by warps
    slots: int  # machine instructions that these become
    lane_slots: int  # the same, times the lanes that took part
    accesses: tuple[AccessCounts, ...]
    waits: dict[Source | int, int]  # cycles of all threads, by the line that they waited at
    lines: dict[Source | int, LineCounts] = field(default_factory=dict)  # or the PTX's line

    @property
    def threads(self) -> int:
        return prod(self.block)

    @property
    def instructions(self) -> int:
        return sum(self.kinds.values())

    @property
    def loads_in_flight(self) -> float:
        """Return the global loads that a warp has under way, on average over its life."""
        return self.load_cycles / max(1, self.thread_cycles)

    @property
    def bytes_in_flight(self) -> float:
        """Return the bytes of global memory that a block has under way, on average."""
        return self.byte_cycles / max(1, self.thread_cycles) * self.threads

    @property
    def active_lanes(self) -> float:
        """Return the lanes of an instruction, on average: 32 where no warp diverges."""
        return self.lane_slots / max(1, self.slots)

    @property
    def coalescing(self) -> float:
        """Return the share of the sectors moved that was needed; 1 without global accesses."""
        sectors = sum(access.sectors for access in self.accesses)
        return sum(access.ideal_sectors for access in self.accesses) / sectors if sectors else 1.0

    @property
    def bank_conflicts(self) -> int:
        """Return the passes through the banks beyond those that are needed."""
        return sum(access.passes - access.ideal_passes for access in self.accesses)

    def bytes(self, space: str, *, stored: bool) -> int:
        """Return the bytes that lanes loaded from a memory space, or stored there."""
        return sum(a.bytes(space) for a in self.accesses if a.stores == stored)

    def sectors(self, *, stored: bool) -> int:
        """Return the sectors of global memory that warps asked for."""
        return sum(access.sectors for access in self.accesses if access.stores == stored)


class CountedKernel(BuiltModule):
    """One kernel of a PTX file or text, built to count.

    `is_alone`: nothing else of the file is built. Otherwise all of it is, for its other kernels.
    """

    def __init__(self, ptx: Path | str, kernel: str, *, is_alone: bool = True) -> None:
        text = ptx.read_text(encoding="utf-8") if isinstance(ptx, Path) else ptx
        if is_alone:
            text = alone(text, kernel)
        super().__init__(build_text(text, kernel if is_alone else "", is_counted=True))
        self.kernel = kernel
        self.reader = reader_of(text, kernel if is_alone else EVERY_KERNEL)
        self._library.counted_end.restype = ctypes.c_char_p
        for name, arguments in (("sample", 1), ("l2", 1), ("touch", 2)):
            getattr(self._library, f"counted_{name}").argtypes = [ctypes.c_ulonglong] * arguments

    def empty_l2(self, size: int = 50 << 20) -> None:
        """Make all of memory cold, and L2 so many bytes large, for all kernels of the process."""
        self._library.counted_l2(size)

    def warm_l2(self, address: int, size: int) -> None:
        """Bring so many bytes into L2."""
        self._library.counted_touch(address, size)

    def count(
        self,
        grid: Extent,
        block: Extent,
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        *,
        sample: int = 0,
        latencies: Latencies = Latencies(),
    ) -> Counts:
        """Launch the kernel; `sample` is how many blocks run, 0 for all.

        Raises:
            KernelError: the kernel broke a rule.
        """
        self._begin(sample, latencies, _extent(grid))
        try:
            self.launch(self.kernel, grid, block, arguments, shared_bytes)
        finally:
            report = self._library.counted_end()
        return self.reader.read(self.kernel, report, _extent(grid), _extent(block))

    def count_raw(
        self,
        grid: Extent,
        block: Extent,
        arguments: int,
        shared_bytes: int,
        sample: int,
        latencies: Latencies,
    ) -> Counts:
        """Launch as cuLaunchKernel does: `arguments` is the address of their addresses."""
        self._begin(sample, latencies, _extent(grid))
        try:
            self.launch_raw(self.kernel, grid, block, arguments, shared_bytes)
        finally:
            report = self._library.counted_end()
        return self.reader.read(self.kernel, report, _extent(grid), _extent(block))

    def _begin(self, sample: int, latencies: Latencies, grid: tuple[int, ...]) -> None:
        cycles = (latencies.shared, latencies.l1, latencies.l2, latencies.dram)
        self._library.counted_sample(sample)
        self._library.counted_begin((ctypes.c_uint32 * 4)(*cycles))


def _extent(extent: Extent) -> tuple[int, ...]:
    return (extent,) if isinstance(extent, int) else tuple(extent)


@lru_cache(maxsize=16)
def reader_of(ptx: str, built: str) -> CountsReader:
    """Return what reads the reports of a PTX text's kernel, or of all with "*"."""
    return CountsReader(ptx, built)


class CountsReader:
    """Reads what a counted kernel reports, with the tables of its translation."""

    def __init__(self, ptx: str, built: str) -> None:
        module = parse(ptx)
        translator = CountingTranslator(module, built)
        translator.whole()
        self._stretches: list[Stretch] = translator.stretches
        self.accesses = translator.accesses
        instructions = [i for function in module.functions for i in function.instructions()]
        self.sources = {i.line: i.source for i in instructions}

    def read(
        self, kernel: str, report: bytes | str, grid: tuple[int, ...], block: tuple[int, ...]
    ) -> Counts:
        found = json.loads(report)
        kinds: Counter[str] = Counter()
        lines: defaultdict[Source | int, LineCounts] = defaultdict(LineCounts)
        slots = lane_slots = 0
        for number, executions, lanes in found["stretches"]:
            stretch = self._stretches[number]
            for instruction in stretch.instructions:
                cost = cost_of(instruction)
                kinds[cost.kind] += executions
                of_line = lines[instruction.source or instruction.line]
                of_line.slots += cost.slots * executions
                of_line.idle_slots += cost.slots * (executions - lanes / WARP)
                of_line.kinds[cost.kind] += executions
                if is_cas_loop(instruction):
                    of_line.kinds[CAS_LOOP] += executions
            slots += slots_of(stretch) * executions
            lane_slots += slots_of(stretch) * lanes
        waits: Counter[Source | int] = Counter()
        for line, cycles in found["waits"]:
            waits[self.sources.get(line) or line] += cycles
            lines[self.sources.get(line) or line].waits += cycles
        accesses = tuple(self._access(*row) for row in found["accesses"])
        for access in accesses:
            of_line = lines[access.source or access.access.line]
            of_line.sectors += access.sectors
            of_line.passes += access.passes
        return Counts(
            kernel,
            grid,
            block,
            **dict(zip(_BLOCKS, found["blocks"], strict=True)),
            **dict(zip(_SECTORS, found["sectors"], strict=True)),
            kinds={kind: kinds[kind] for kind in KINDS if kinds[kind]},
            slots=slots,
            lane_slots=lane_slots,
            accesses=accesses,
            waits=dict(waits.most_common()),
            lines=dict(lines),
        )

    def source_of(self, number: int) -> Source | None:
        """Return the source line of an access."""
        return self.sources.get(self.accesses[number].line)

    def _access(self, number: int, executions: int, *counts: int) -> AccessCounts:
        lanes = dict(zip(SPACES, counts, strict=False))
        source = self.source_of(number)
        return AccessCounts(self.accesses[number], source, executions, lanes, *counts[3:])
