"""Translates one kernel to C++ that counts what it does, by counters.h.

Each stretch of instructions begins by entering its Visit, each access to memory leaves its address
there, and each register has the cycle at which it is ready. The tables of stretches and accesses
are kept here, too, so that counts can be read with the lines they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ..operands import Context
from ..ptx import Instruction, Label, PtxFunction, PtxModule
from ..translate import Translator, label, statement, table
from .costs import JUMPS, KINDS, Cost, cost_of
from .stretches import Access, Loop, Stretch, is_meeting, stretches_of

ACCESS_KINDS = ("load", "store", "atomic", "copy", "copy store", "matrix load")  # Kind, counters.h
ORDERS = ("weak", "strong", "release")  # of an access to memory: Order, checking/shadow.h
EVERY_KERNEL = "*"
BRANCH_CYCLES = 6  # until the first instruction behind a jump
ATOMIC_CYCLES = 30  # of an atomic, on top of a load
_KIND_OF = {"st": "store", "atom": "atomic", "red": "atomic"}
_WITHOUT_RESULT = ("st", "red", "cp", "fence", "membar", *JUMPS)
_WORD = re.compile(r"%?[A-Za-z_$][\w$.]*")


class CountingTranslator(Translator):
    """Writes one entry of a module, or all ("*"), and the functions that they may call."""

    header = "counting/counters.h"

    def __init__(self, module: PtxModule, kernel: str) -> None:
        functions = [
            f for f in module.functions if not f.is_entry or kernel in (f.name, EVERY_KERNEL)
        ]
        super().__init__(replace(module, functions=functions))
        self.stretches: list[Stretch] = []

    def body(self, function: PtxFunction, context: Context) -> Iterator[str]:
        counted = _CountedFunction(function, len(self.stretches))
        self.stretches += counted.stretches
        yield from counted.declarations()
        for place, item in enumerate(function.body):
            if isinstance(item, Label):
                yield label(item, context)
            if place in counted.starts:
                yield counted.begin(place)
            if isinstance(item, Instruction):
                record = replace(context, instruction=item, record=counted.record)
                yield "  " + counted.timed(item, statement(record))
            elif not counted.stretch.instructions:
                yield "  " + counted.advance()
        yield "  clock.leave(self);"

    @property
    def accesses(self) -> list[Access]:
        return [access for stretch in self.stretches for access in stretch.accesses]

    def tables(self) -> Iterator[str]:
        rows, first = [], 0
        for stretch in self.stretches:
            costs = [cost_of(instruction) for instruction in stretch.instructions]
            kinds = ", ".join(str(sum(c.kind == kind for c in costs)) for kind in KINDS)
            sizes = f"{first}, {len(stretch.accesses)}, {len(costs)}, {slots_of(stretch)}"
            rows.append(f"{{{stretch.line}, {sizes}, {{{kinds}}}}}")
            first += len(stretch.accesses)
        yield table("Stretch", "stretches", rows)
        accesses = [
            f"{{{a.line}, {a.bytes}, {ACCESS_KINDS.index(a.kind)}, {ORDERS.index(a.order)}}}"
            for a in self.accesses
        ]
        yield table("Access", "accesses", accesses)
        lines = [i.line for function in self.module.functions for i in function.instructions()]
        counts = f"stretches, {len(rows)}, accesses, {len(accesses)}, {max(lines, default=0) + 1}"
        yield f"COUNTED_INTERFACE({counts})"
        yield from super().tables()


def slots_of(stretch: Stretch) -> int:
    return sum(cost_of(instruction).slots for instruction in stretch.instructions)


class _CountedFunction:
    """C++ around the statements of one function."""

    def __init__(self, function: PtxFunction, first_number: int) -> None:
        self._function, self._first = function, first_number
        self.stretches = stretches_of(function)
        self.starts = {stretch.place: at for at, stretch in enumerate(self.stretches)}
        self._at = 0

    @property
    def stretch(self) -> Stretch:
        return self.stretches[self._at]

    def declarations(self) -> Iterator[str]:
        yield "  Clock clock(self); Visit* here = root(self); (void)here;"
        yield "  const uint64_t path = counters.path[self.number]; (void)path;"
        for name in self._function.registers:
            yield f"  uint32_t {_ready(name)} = 0;"
        for at, stretch in enumerate(self.stretches):
            if stretch.loop and stretch.loop.header == at:
                yield f"  uint32_t turn_{at} = 0; uint64_t path_{at} = 0;"

    def begin(self, place: int) -> str:
        """Return what stands where a stretch begins, behind its label."""
        self._at = self.starts[place]
        stretch, parts = self.stretch, []
        if stretch.loop and stretch.loop.header == self._at:
            loop = stretch.loop
            turn = f"mixed({_path(loop.outer)}, {self._at + 1}, ++turn_{self._at})"
            parts.append(f"path_{self._at} = {turn};")
            parts += [f"turn_{inner.header} = 0;" for inner in loop.inner]
        before = "root(self)" if stretch.is_after_meeting or self._at == 0 else "here"
        number = self._first + self._at
        parts.append(f"here = visit(self, {before}, {number}, {_path(stretch.loop)});")
        return "  " + " ".join(parts)

    def record(self, instruction: Instruction, pointer: str, size: int, kind: str) -> str:
        kind = kind or _KIND_OF.get(instruction.parts[0], "load")
        access = Access(instruction.line, size, kind, _order_of(instruction))
        self.stretch.accesses.append(access)
        number, name = len(self.stretch.accesses) - 1, kind.upper().replace(" ", "_")
        return f"record(self, here, {number}, {size}, {name}, {pointer}, clock)"

    def timed(self, instruction: Instruction, text: str) -> str:
        """Return a statement with its clock; the last one of a stretch moves the clock on."""
        cost, name = cost_of(instruction), instruction.parts[0]
        written, read = _registers(self._function, instruction)
        operands = ", ".join(map(_ready, read))
        before = f"clock.issue({instruction.line}, {{{operands}}}); "
        after = _result(instruction, cost, written)
        if name == "call":
            path = _path(self.stretch.loop)
            before += f"{self.advance()} clock.leave(self); "
            before += f"counters.path[self.number] = mixed({path}, {self._at}, 77); "
            after = f" clock.return_from(self, {instruction.line}); here = root(self);{after}"
            after += f" counters.path[self.number] = {path};"
        elif is_meeting(instruction):
            before += f"{self.advance()} clock.leave(self); "
            after = f" clock.return_from(self, {instruction.line});{after}"
            if name in ("bar", "barrier"):
                after += f" clock.now += {cost.cycles};"
        elif name in ("ret", "exit"):
            before += f"{self.advance()} clock.leave(self); "
        elif name in JUMPS:
            before += f"{self.advance()} clock.now += {BRANCH_CYCLES}; "
        elif instruction is self.stretch.last:
            after += f" {self.advance()}"
        return before + text + after

    def advance(self) -> str:
        return f"clock.advance({slots_of(self.stretch)}, {self.stretch.line});"


def _order_of(instruction: Instruction) -> str:
    parts = set(instruction.parts)
    if parts & {"release", "acq_rel"}:
        return "release"
    is_strong = parts & {"atom", "red", "volatile", "relaxed", "acquire", "mmio"}
    return "strong" if is_strong else "weak"


def _path(loop: Loop | None) -> str:
    return f"path_{loop.header}" if loop else "path"


def _ready(register: str) -> str:
    """Return the C++ variable for the cycle at which a register can be used."""
    return "ready_" + re.sub(r"\W", "_", register)


def _result(instruction: Instruction, cost: Cost, written: list[str]) -> str:
    """Return what an instruction does to the clock once it has run."""
    parts = instruction.parts
    if parts[:2] == ["cp", "async"]:
        if "commit_group" in parts:
            return " clock.commit(); shadow.commit_copies(self);"
        if "wait_all" in parts:
            wait = f"clock.wait_for_groups(0, {instruction.line}); shadow.wait_for_copies(self, 0);"
            return f" clock.commit(); shadow.commit_copies(self); {wait}"
        if "wait_group" in parts:
            left = instruction.operands[0]
            wait = f"clock.wait_for_groups({left}, {instruction.line});"
            return f" {wait} shadow.wait_for_copies(self, {left});"
        return " clock.copies();"
    if parts[0] in ("fence", "membar") and not {"cta", "proxy"} & set(parts):
        return " shadow.fence();"
    value = f"clock.when + {cost.cycles}"
    if parts[0] in ("ld", "ldu", "atom") and not {"param", "const"} & set(parts):
        value = f"clock.ready + {ATOMIC_CYCLES}" if parts[0] == "atom" else "clock.ready"
    return "".join(f" {_ready(name)} = {value};" for name in written)


def _registers(function: PtxFunction, instruction: Instruction) -> tuple[list[str], list[str]]:
    """Return the registers that an instruction writes and those that it reads."""
    name, operands = instruction.parts[0], instruction.operands
    if name == "call":
        return [], []
    has_result = name not in _WITHOUT_RESULT and (
        name not in ("bar", "barrier") or "red" in instruction.parts
    )
    written = _named(function, operands[:1]) if has_result else []
    read = _named(function, operands[1:] if has_result else operands)
    return written, [*read, *filter(None, [instruction.guard])]


def _named(function: PtxFunction, operands: tuple[str, ...]) -> list[str]:
    words = (word for text in operands for word in _WORD.findall(text))
    return list(dict.fromkeys(word for word in words if word in function.registers))
