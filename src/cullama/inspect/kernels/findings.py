"""What a check of a kernel finds: what is wrong, on which line, for which threads, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...emulation.checking.faults import AccessPlace, MemoryFault
from ...emulation.counting.counts import AccessCounts, Counts
from ...emulation.kernel import KernelError
from ...emulation.ptx import Source
from .source import KernelSource

SLOW = 2  # times what would do: from here on an access is named as slow
_VERBS = {  # of the later access, and of the earlier one
    "load": ("reads", "read"),
    "store": ("writes", "wrote"),
    "atomic": ("changes", "changed"),
    "copy": ("copies", "copied"),
    "copy store": ("overwrites by a copy", "wrote by a copy"),
    "matrix load": ("reads", "read"),
}
# Where several are at the same two lines, the first says most.
FAULT_ORDER = ("race of threads", "race of blocks", "race of lanes", "open copy", "unwritten")
_THREAD = re.compile(r"block \((\d+), (\d+), (\d+)\), thread \((\d+), (\d+), (\d+)\), ")
_PLACE = re.compile(r"PTX line (\d+)(?: \(([^():]*):(\d+)\))?: (.*)", re.DOTALL)

# What the emulator's messages contain, what it is called, and what to do about it.
_RULES = (
    ("is in no array", "shared memory out of bounds", "check the index against the array's size"),
    ("is not a multiple of", "misaligned access", "load smaller parts, or align the address"),
    ("illegal address 0x0:", "access through a bad pointer", "check what the pointer was given"),
    ("null, or not an address", "access through a bad pointer", "check what the pointer was given"),
    ("are not all allocated", "out of bounds", "check the index against the array's size"),
    ("illegal address", "out of bounds", "check the index against the array's size"),
    ("divergent barrier", "divergent barrier", "move __syncthreads() out of the branch"),
    ("the barrier expects", "barrier of different sizes", "let all name the same threads"),
    ("not a multiple of 32", "barrier of part of a warp", "count whole warps"),
    ("there is no barrier", "barrier out of range", "barriers are 0 to 15"),
    ("deadlock", "barrier that not all threads reach", "let all threads come to it, or none"),
    ("own lane", "lane that is not in its own mask", "name the calling lanes in the mask"),
    ("with mask", "lanes that meet at different places", "give all lanes the same mask and line"),
    ("does not end", "endless loop", "check the loop's condition"),
    ("stack overflow", "stack overflow", "use less local memory, or no recursion"),
    ("trap", "trap", "the kernel ended itself"),
    ("assertion", "failed assertion", "the kernel's own assert does not hold"),
    ("no local address", "local memory out of bounds", "check the index against the array's size"),
    ("__launch_bounds__", "launch shape", "it is launched with more threads than it allows"),
    ("shared memory than", "too much shared memory", "a block has at most 227 KiB"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or slow, at a line of a kernel."""

    kernel: str
    what: str
    line: int  # of the file; 0 where it is not known
    detail: str
    remedy: str
    is_error: bool = True
    other_line: int = 0

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.kernel, self.what, *sorted((self.line, self.other_line))  # type: ignore[return-value]

    def as_text(self, source: KernelSource) -> str:
        """Return a block: what and where, the lines, the threads, what to do."""
        place = f"{source.name}:{self.line}" if self.line else source.name
        severity = "error" if self.is_error else "warning"
        rows = [f"{place}: {severity}: {self.what} in {self.kernel}"]
        lines = sorted({self.line, self.other_line} - {0})
        rows += [f"  {number:>5} | {source.line(number)}" for number in lines]
        rows.append(f"  {self.detail}")
        return "\n".join([*rows, *[f"  → {self.remedy}"] * bool(self.remedy)])

    def as_json(self, source: KernelSource) -> dict[str, Any]:
        severity = "error" if self.is_error else "warning"
        texts = {"text": source.line(self.line), "other_text": source.line(self.other_line)}
        row = {name: value for name, value in asdict(self).items() if name != "is_error"}
        return {**row, **texts, "file": source.name, "severity": severity}


def of_error(
    kernel: str, error: KernelError, source: KernelSource, lines: Mapping[int, Source | None]
) -> Finding:
    """Return the rule that a kernel broke, from the emulator's message.

    `lines`: of the source, by those of the PTX.
    """
    message = str(error)
    what, remedy = next(
        ((name, remedy) for words, name, remedy in _RULES if words in message),
        ("broken rule", "see the message"),
    )
    thread, place = _THREAD.search(message), _PLACE.search(message)
    if not place:
        detail = message.partition(": kernel ")[2].partition(": ")[2] or message
        return Finding(kernel, what, source.definition(kernel), detail, remedy)
    line = int(place[1])
    if source.compiler:
        line = int(place[3] or 0) if place[2] == source.name else 0
    where = ""
    if thread:
        numbers = ", ".join(thread.groups()[3:]), ", ".join(thread.groups()[:3])
        where = "thread ({}) of block ({}): ".format(*numbers)
    other = re.search(r"in line (\d+)", place[4])
    other_line = source.line_of(lines.get(int(other[1])), int(other[1])) if other else 0
    said = place[4].replace(other[0], f"in line {other_line}") if other else place[4]
    line = line or source.definition(kernel)
    return Finding(kernel, what, line, where + said, remedy, other_line=other_line)


def of_fault(kernel: str, fault: MemoryFault, source: KernelSource) -> Finding:
    """Return a race, or a read of what was not written."""
    later, earlier = fault.later, fault.earlier
    line, who = _line(later, source), f"thread {later.thread} of block {later.block}"
    if earlier is None:
        return Finding(
            kernel,
            "read of uninitialised shared memory",
            line,
            f"{who} reads what nothing has written",
            "write all of the array first, or read less of it",
        )
    other = _line(earlier, source)
    does, did = _VERBS[later.access.kind][0], _VERBS[earlier.access.kind][1]
    if fault.kind == "open copy":
        return Finding(
            kernel,
            "read before an asynchronous copy has ended",
            line,
            f"{who} {does} what thread {earlier.thread} {did} in line {other}",
            f"wait with cp.async.wait_group and a barrier before line {line}",
            other_line=other,
        )
    same = " in the same line" if line == other else f" in line {other}"
    whom = f"thread {earlier.thread}"
    remedies = {
        "race of threads": "put __syncthreads() between the two",
        "race of lanes": "put __syncwarp() between the two; shuffles and votes order no memory",
        "race of blocks": "blocks run in any order: use an atomic, or another launch; "
        "what other blocks are to see needs __threadfence() before an atomic",
    }
    if fault.kind == "race of blocks":
        whom += f" of block {earlier.block}"
    if line == other and (does, did) == _VERBS["store"]:
        remedies[fault.kind] = "let one thread write, or use an atomic"
    detail = f"{who} {does} what {whom} {did}{same}"
    names = {"race of threads": "race between threads", "race of lanes": "race within a warp"}
    what = names.get(fault.kind, "race between blocks")
    return Finding(kernel, what, line, detail, remedies[fault.kind], other_line=other)


def _line(place: AccessPlace, source: KernelSource) -> int:
    return source.line_of(place.source, place.access.line)


def slow_accesses(kernel: str, counts: Counts, source: KernelSource) -> Iterator[Finding]:
    """Yield the accesses that move far more than they need: uncoalesced, in conflict, local."""
    for access in counts.accesses:
        line = source.line_of(access.source, access.access.line)
        yield from _slow(kernel, access, line)


def _slow(kernel: str, access: AccessCounts, line: int) -> Iterator[Finding]:
    kind = access.access.kind
    if access.sectors > SLOW * access.ideal_sectors:
        each, ideal = (n / access.executions for n in (access.sectors, access.ideal_sectors))
        used = access.distinct / (32 * access.sectors)
        yield Finding(
            kernel,
            "uncoalesced access",
            line,
            f"a warp's {kind} touches {each:.1f} sectors of 32 bytes where {ideal:.1f} would do: "
            f"{used:.0%} of the bytes moved are used",
            "let neighbouring lanes access neighbouring addresses",
            is_error=False,
        )
    if access.passes > SLOW * access.ideal_passes:
        each = access.passes / access.shared_executions
        yield Finding(
            kernel,
            "bank conflicts",
            line,
            f"a warp's {kind} takes {each:.1f} passes through the banks of shared memory",
            "pad rows by one element, or let lanes access different banks",
            is_error=False,
        )
    if access.lanes["local"]:
        yield Finding(
            kernel,
            "local memory",
            line,
            f"{access.bytes('local')} bytes in memory that is no register",
            "index arrays by constants (unroll the loop), or use shared memory",
            is_error=False,
        )
