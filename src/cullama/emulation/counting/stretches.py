"""Cuts a function into stretches of instructions that a warp executes together.

A stretch is entered at its top and left at its end, and has no barrier and no collective but as its
last instruction. The emulator runs lanes one after another; their executions of a stretch are put
together by the turn of every loop around it that each lane is in. Two lanes that are in the same
turns would have run the stretch together on a GPU that reconverges as early as it can. So the loops
have to be known, too: natural loops, found through dominators (Aho et al., "Compilers", 9.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ptx import Instruction, Label, PtxFunction
from .costs import JUMPS, SYNCHRONISING


@dataclass(frozen=True)
class Access:
    """One instruction's access to memory, as a stretch numbers them."""

    line: int  # of the PTX
    bytes: int  # of a lane
    kind: str
    order: str = "weak"  # ORDERS of translator.py


@dataclass(eq=False)
class Loop:
    """A loop, by its first stretch; `outer` is the one around it."""

    header: int
    body: set[int]
    outer: Loop | None = None
    inner: list[Loop] = field(default_factory=list)


@dataclass
class Stretch:
    """Instructions from one place of a function's body; `loop` is the innermost around them."""

    place: int
    instructions: list[Instruction] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    next: list[int] = field(default_factory=list)
    loop: Loop | None = None
    is_after_meeting: bool = False  # lanes may come from a barrier, a collective or a call

    @property
    def line(self) -> int:
        return self.instructions[0].line if self.instructions else 0

    @property
    def last(self) -> Instruction | None:
        return self.instructions[-1] if self.instructions else None


def is_meeting(instruction: Instruction) -> bool:
    """Return whether lanes wait for each other at it."""
    parts = instruction.parts
    return parts[0] in SYNCHRONISING and "arrive" not in parts


def stretches_of(function: PtxFunction) -> list[Stretch]:
    """Return a function's stretches in its own order, joined and with their loops."""
    found: list[Stretch] = []
    labels: dict[str, int] = {}
    is_cut = True
    for place, item in enumerate(function.body):
        is_label = isinstance(item, Label)
        if is_cut or is_label:
            found.append(Stretch(place))
            is_cut = False
        if isinstance(item, Label):
            labels[item.name] = len(found) - 1
        else:
            found[-1].instructions.append(item)
            is_cut = is_meeting(item) or item.parts[0] in JUMPS
    for number, stretch in enumerate(found):
        _join(function, found, number, stretch.last, labels)
    for loop in _loops(found):
        for member in loop.body:  # outer loops come first
            found[member].loop = loop
    return found


def _join(
    function: PtxFunction,
    found: list[Stretch],
    number: int,
    last: Instruction | None,
    labels: dict[str, int],
) -> None:
    """Enter where execution goes on after a stretch."""
    name = last.parts[0] if last else ""
    if last and name == "bra":
        found[number].next.append(labels[last.operands[0]])
    if last and name == "brx":
        targets = function.branch_targets[last.operands[1]]
        found[number].next += [labels[target] for target in targets]
    falls = name not in ("bra", "brx", "ret", "exit", "trap") or (last and last.guard)
    if falls and number + 1 < len(found):
        found[number].next.append(number + 1)
        is_meeting_point = last is not None and (name == "call" or is_meeting(last))
        found[number + 1].is_after_meeting |= is_meeting_point


def _dominators(found: list[Stretch], before: list[list[int]]) -> list[int]:
    """Return, as bits, which stretches are on every way to each."""
    dominators = [(1 << len(found)) - 1] * len(found)
    dominators[0] = 1
    has_changed = True
    while has_changed:
        has_changed = False
        for number in range(1, len(found)):
            common = (1 << len(found)) - 1 if before[number] else 0
            for other in before[number]:
                common &= dominators[other]
            if common | 1 << number != dominators[number]:
                dominators[number], has_changed = common | 1 << number, True
    return dominators


def _loops(found: list[Stretch]) -> list[Loop]:
    """Return the natural loops, each after those around it."""
    if not found:
        return []
    before: list[list[int]] = [[] for _ in found]
    for number, stretch in enumerate(found):
        for after in stretch.next:
            before[after].append(number)
    dominators = _dominators(found, before)
    bodies: dict[int, set[int]] = {}
    for number, stretch in enumerate(found):
        for header in stretch.next:
            if not dominators[number] >> header & 1:
                continue
            body, reached = bodies.setdefault(header, {header}), [number]
            while reached:
                if (member := reached.pop()) not in body:
                    body.add(member)
                    reached += before[member]
    loops: list[Loop] = []
    for header, body in sorted(bodies.items(), key=lambda each: -len(each[1])):
        around = [loop for loop in loops if header in loop.body]
        loops.append(Loop(header, body, around[-1] if around else None))
        if around:
            around[-1].inner.append(loops[-1])
    return loops
