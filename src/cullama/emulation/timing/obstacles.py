"""Names what holds a launch back: which of its habits cost time, on which line of the kernel.

Each habit is weighed by the share of the predicted time that it takes, roughly: the order is what
counts. Below MIN_SHARE it is not named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import TypeAlias

from ..counting.costs import CAS_LOOP
from ..counting.counts import SECTOR, WARP, AccessCounts, Counts
from ..ptx import Source
from .cards import Card
from .prediction import Prediction
from .resources import Occupancy

Line: TypeAlias = Source | int | None

MIN_SHARE = 0.08
WIDE = 16  # bytes of a lane that one load can have
CYCLES = {"division": 130, "barrier": 22, "special": 26}  # until the result; costs.py
SLOTS = {"division": 20, "double": 32}  # of one of them; doubles: half a lane a cycle on GeForce
IDLE_LANES = 8  # of 32: fewer idle ones are no divergence
FEW_LOADS = 2.0  # in flight a warp
CAS_CYCLES = 60  # of one turn of a compare-and-swap loop
SAME_ADDRESS = 4  # lanes of an atomic at one place


def place_of(line: Line) -> str:
    """Return FILE:LINE, PTX line N, or nothing."""
    if isinstance(line, Source):
        return f"{line.file.rpartition('/')[2]}:{line.line}"
    return f"PTX line {line}" if line else ""


@dataclass(frozen=True)
class Obstacle:
    """One thing that costs time; `line` is of the kernel, where there is one."""

    what: str
    line: Line
    detail: str
    remedy: str
    share: float  # of the predicted time, roughly

    @property
    def place(self) -> str:
        return place_of(self.line)


@dataclass(frozen=True)
class Examined:
    """A launch whose obstacles are looked for."""

    counts: Counts
    told: Prediction
    room: Occupancy
    card: Card

    @property
    def grid(self) -> int:
        return prod(self.counts.grid)

    @property
    def warps(self) -> int:
        """Return the warps that ran."""
        return self.counts.blocks * ceil(self.counts.threads / WARP)

    @property
    def warp_cycles(self) -> float:
        """Return the cycles that a warp lives."""
        return self.counts.thread_cycles / max(1, self.counts.blocks * self.counts.threads)

    def share_of_cycles(self, on_sm: float) -> float:
        """Return the share of the time that so many cycles take, of the blocks that ran on an SM
        of their own."""
        each = ceil(self.grid / self.card.sms) / self.counts.blocks
        return on_sm * each / (self.card.clock * 1e3) / self.told.microseconds

    def share_of_chain(self, executions: float, cycles: float) -> float:
        """Return the share of a warp's life that so many instructions take, one after another."""
        chain = self.told.terms["latency"] / self.told.microseconds
        return min(1.0, executions / self.warps * cycles / max(1.0, self.warp_cycles)) * chain

    def line_of(self, kind: str) -> Line:
        """Return the line that executes most instructions of a kind."""
        lines = self.counts.lines
        return max(lines, key=lambda line: lines[line].kinds[kind], default=None)


def obstacles(launch: Examined) -> list[Obstacle]:
    """Return what holds a launch back, the costliest first."""
    found = [each for part in PARTS for each in part(launch)]
    return sorted((o for o in found if o.share >= MIN_SHARE), key=lambda o: -o.share)


def in_memory(launch: Examined) -> Iterator[Obstacle]:
    """Yield what accesses to memory do wrong."""
    for access in launch.counts.accesses:
        yield from _of_access(launch, access)
    local = [access for access in launch.counts.accesses if access.lanes["local"]]
    if local:
        hot = max(local, key=lambda access: access.executions)
        executions = sum(access.executions for access in local)
        size = sum(access.bytes("local") for access in local) / launch.warps
        yield Obstacle(
            "local memory",
            hot.source or hot.access.line,
            f"{size:,.0f} bytes a warp in memory that is no register",
            "index arrays by constants (unroll the loop), or use shared memory",
            max(MIN_SHARE, launch.share_of_chain(executions, launch.card.latencies.l1)),
        )


def _of_access(launch: Examined, access: AccessCounts) -> Iterator[Obstacle]:
    """Yield what one instruction does wrong."""
    counts, card = launch.counts, launch.card
    line: Line = access.source or access.access.line
    verb = "stores" if access.stores else "loads"
    extra = access.sectors - access.ideal_sectors
    if access.sectors > 1.5 * access.ideal_sectors:
        each, ideal = (n / access.executions for n in (access.sectors, access.ideal_sectors))
        whole = extra * SECTOR / counts.blocks * launch.grid / card.l2_rate / 1e6
        yield Obstacle(
            f"uncoalesced {verb}",
            line,
            f"a warp touches {each:.0f} sectors of 32 bytes, {ideal:.0f} would do",
            "let neighbouring lanes access neighbouring addresses",
            max(whole / launch.told.microseconds, launch.share_of_cycles(extra / 4)),
        )
    if access.passes > 1.5 * access.ideal_passes:
        each = access.passes / access.shared_executions
        yield Obstacle(
            "bank conflicts",
            line,
            f"{each:.0f} passes through the banks for one access of a warp",
            "pad rows by one element, or let lanes access different banks",
            launch.share_of_cycles(access.passes - access.ideal_passes),
        )
    if access.access.kind == "atomic" and access.same_address > SAME_ADDRESS * access.executions:
        each = 1 + access.same_address / access.executions
        yield Obstacle(
            "atomics at one address",
            line,
            f"{each:.0f} lanes of a warp change the same place, one after another",
            "add up in registers or a warp first (shuffles, redux), then one atomic",
            launch.share_of_cycles(access.same_address),
        )


def in_loads(launch: Examined) -> Iterator[Obstacle]:
    """Yield loads that are waited for with too few others under way, or that are too narrow."""
    counts = launch.counts
    total = sum(counts.waits.values())
    loads = [a for a in counts.accesses if a.lanes["global"] and not a.stores]
    in_loops = [a for a in loads if a.executions > 3 * launch.warps]
    if not in_loops or not total:
        return
    hot = max(in_loops, key=lambda a: a.executions)
    line: Line = hot.source or hot.access.line
    chain = launch.told.terms["latency"] / launch.told.microseconds
    if counts.loads_in_flight < FEW_LOADS:
        waited = max(counts.waits.values()) / total
        yield Obstacle(
            "few loads in flight",
            line,
            f"{counts.loads_in_flight:.1f} loads of a warp under way, and each is waited for",
            "unroll the loop so that loads come before their uses; copy ahead with cp.async",
            waited * chain,
        )
    is_coalesced = hot.sectors <= 1.5 * hot.ideal_sectors
    if hot.access.bytes < WIDE and is_coalesced and hot.distinct >= hot.requested / 2:
        yield Obstacle(
            "narrow loads",
            line,
            f"{hot.access.bytes} bytes a lane, 16 would do: fewer instructions, more in flight",
            "load float4 or uint4, aligned to 16 bytes",
            (1 - hot.access.bytes / WIDE)
            * max(chain, launch.told.terms["issue slots"] / launch.told.microseconds)
            / 2,
        )


def in_instructions(launch: Examined) -> Iterator[Obstacle]:
    """Yield instructions that are slow, or many."""
    counts, told = launch.counts, launch.told
    kinds, slots = counts.kinds, max(1, counts.slots)
    issue = told.terms["issue slots"] / told.microseconds
    if told.limit == "issue slots":
        yield Obstacle(
            "instructions",
            max(counts.lines, key=lambda line: counts.lines[line].slots, default=None),
            f"{counts.slots / launch.warps:,.0f} a warp, of which an SM issues 4 a cycle",
            "load and convert several numbers at once, compute in pairs, use tensor cores",
            issue / 2,  # a reason below says more
        )
    if found := kinds.get("division", 0):
        yield Obstacle(
            "integer or exact division",
            launch.line_of("division"),
            f"{found / launch.warps:.0f} a warp, each about {SLOTS['division']} instructions",
            "divide by constants or powers of two, or once before the loop; __fdividef for floats",
            max(
                min(1.0, SLOTS["division"] * found / slots) * issue,
                launch.share_of_chain(found, CYCLES["division"]),
            ),
        )
    if found := kinds.get("double", 0):
        yield Obstacle(
            "64-bit floats",
            launch.line_of("double"),
            f"{found / launch.warps:.0f} instructions a warp, at up to 1/64 of the rate",
            "write 1.0f, not 1.0; compute in float",
            found * SLOTS["double"] / (slots + found * SLOTS["double"]),
        )
    if told.terms["special"] > 0.3 * told.microseconds:
        yield Obstacle(
            "special functions",
            launch.line_of("special"),
            "exponentials, roots, sines and conversions run at an eighth of the rate",
            "take fewer: fold factors into one exp2, use multiply-adds",
            told.terms["special"] / told.microseconds,
        )


def in_meetings(launch: Examined) -> Iterator[Obstacle]:
    """Yield what lanes and warps wait for each other for."""
    counts = launch.counts
    loops = sum(line.kinds[CAS_LOOP] for line in counts.lines.values())
    if loops:
        yield Obstacle(
            CAS_LOOP,
            launch.line_of(CAS_LOOP),
            f"{loops / launch.warps:.0f} a warp: lanes at one place try again in turn",
            "use an atomic that the card has (32-bit integers in shared memory), or reduce first",
            max(launch.share_of_chain(loops, CAS_CYCLES), MIN_SHARE),
        )
    if found := counts.kinds.get("barrier", 0):
        yield Obstacle(
            "barriers",
            launch.line_of("barrier"),
            f"{found / launch.warps:.0f} a warp",
            "synchronise once for several steps; shuffles need no barrier",
            launch.share_of_chain(found, 2 * CYCLES["barrier"]),
        )
    if counts.active_lanes < WARP - IDLE_LANES:
        lines = counts.lines
        yield Obstacle(
            "divergence",
            max(lines, key=lambda line: lines[line].idle_slots, default=None),
            f"{counts.active_lanes:.0f} of 32 lanes work",
            "let all lanes of a warp take the same branch, and loops end together",
            1 - counts.active_lanes / WARP,
        )


def in_shape(launch: Examined) -> Iterator[Obstacle]:
    """Yield what is wrong with the number of blocks, or of those an SM holds."""
    card, room, told = launch.card, launch.room, launch.told
    chain = told.terms["latency"] / told.microseconds
    if launch.grid < card.sms:
        yield Obstacle(
            "few blocks",
            None,
            f"{launch.grid} blocks for {card.sms} SMs",
            "split the work over more blocks",
            1 - launch.grid / card.sms,
        )
    elif room.warps < 0.25 and launch.grid > room.blocks * card.sms:
        yield Obstacle(
            "low occupancy",
            None,
            f"{room.blocks} blocks an SM, {room.warps:.0%} of its warps, because of {room.limit}",
            f"use less of it ({room.limit}), or more loads in flight a warp",
            chain * (1 - room.warps),
        )


PARTS = (in_memory, in_loads, in_instructions, in_meetings, in_shape)
