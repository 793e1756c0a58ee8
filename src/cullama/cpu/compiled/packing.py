"""Packing weights as they are loaded: rows as their file has them, sixteen at a time, into a panel.

What a panel holds, the same bytes whoever packs it, is said by `pack` in `../packed.py`. How codes
come out of a block is `../file_blocks.py`'s, run here on registers: a word of each row in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...files.quantized_blocks import Codes
from ...files.tensor import HostArray
from ..jit.compiler import Kernel
from ..jit.kernel_builder import I8, I16, I32, I64, POINTER, KernelBuilder, Type, Value, vector
from ..packed import GROUP, PANEL, Bytes, Format, Grouped, Plain
from .dots import joined
from .unpacking import place_of

FIELDS = {
    "rows": POINTER,  # [16 panels, bytes of a row in the file]
    "panels": POINTER,  # [panels, bytes of a panel]
    "count": I64,  # of panels
    "blocks": I64,  # of the format in a row
    "panels_in_chunk": I64,
}

CHUNK = 1 << 20  # bytes of panels: a tile of a file is packed before a worker would be awake

FOUR = 4  # words loaded together: a register of any processor


def packing(format_: Format, rows: HostArray, panels: Bytes) -> tuple[Kernel, int, dict[str, Any]]:
    """The kernel, its chunks and its arguments, for what `format_.pack(rows)` would return."""
    rows = np.ascontiguousarray(rows, format_.dtype if isinstance(format_, Plain) else np.uint8)
    blocks = panels.shape[1] // format_.panel_bytes(format_.block)
    assert rows.nbytes == len(panels) * PANEL * blocks * format_.block_bytes
    panels_in_chunk = -(-CHUNK // panels.shape[1])
    arguments = {
        "rows": rows,
        "panels": panels,
        "count": len(panels),
        "blocks": blocks,
        "panels_in_chunk": panels_in_chunk,
    }
    return packing_kernel(format_), -(-len(panels) // panels_in_chunk), arguments


def packing_kernel(format_: Format) -> Kernel:
    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        row_bytes = a.blocks * format_.block_bytes
        panel_bytes = a.blocks * format_.panel_bytes(format_.block)
        first = chunk * a.panels_in_chunk
        with builder.loop((first + a.panels_in_chunk).minimum(a.count), first) as at:
            rows = _Rows(builder, a.rows + at * PANEL * row_bytes, row_bytes)
            panel = a.panels + at * panel_bytes
            if isinstance(format_, Plain):
                _pack_plain(rows, format_, a.blocks, panel)
            else:
                _pack_grouped(rows, format_, a.blocks, panel)

    return Kernel(f"pack_{format_.name.lower()}", FIELDS, body)


@dataclass(frozen=True)
class _Rows:
    """Sixteen rows of a file, from some byte of each on."""

    builder: KernelBuilder
    first: Value  # where that byte of the first row is
    stride: Value  # bytes from there to the next row's

    def at(self, place: Value | int) -> _Rows:
        return replace(self, first=self.first + place)

    def each(self, type_: Type) -> list[Value]:
        """What lies there, row by row."""
        return [self.builder.load(type_, self.first + self.stride * row) for row in range(PANEL)]

    def words(self, count: int) -> list[Value]:
        """[count, 16 rows]: so many words of each; up to three beyond them are read too."""
        fours = (self.at(4 * start).each(vector(I32, FOUR)) for start in range(0, count, FOUR))
        return list(chain.from_iterable(transposed(self.builder, four) for four in fours))[:count]

    def copy(self, type_: Type, size: int, to: Value) -> None:
        """A number of each row, of so many bytes, side by side."""
        for row, number in enumerate(self.each(type_)):
            self.builder.store(number, to + size * row)


def transposed(builder: KernelBuilder, rows: Sequence[Value]) -> list[Value]:
    """[16 rows, 4] → [4, 16 rows]. All but the first step stays within quarters of a register."""
    a, b, c, d = (_end_to_end(builder, rows[start::FOUR]) for start in range(FOUR))
    columns = []
    for pairs in ((0, 4, 1, 5), (2, 6, 3, 7)):
        left, right = _in_quarters(builder, a, b, pairs), _in_quarters(builder, c, d, pairs)
        columns += [
            _in_quarters(builder, left, right, half) for half in ((0, 1, 4, 5), (2, 3, 6, 7))
        ]
    return columns


def _end_to_end(builder: KernelBuilder, four: Sequence[Value]) -> Value:
    return joined(builder, [joined(builder, list(four[:2])), joined(builder, list(four[2:]))])


def _in_quarters(
    builder: KernelBuilder, first: Value, second: Value, places: Sequence[int]
) -> Value:
    """In each run of four lanes: those lanes of the first, or from 4 on of the second."""
    runs = range(0, first.lanes, FOUR)
    lanes = [run + place % FOUR + place // FOUR * first.lanes for run in runs for place in places]
    return first.shuffle(lanes, second)


# --- plain: columns side by side -----------------------------------------------------------------


def _pack_plain(rows: _Rows, format_: Plain, columns: Value, panel: Value) -> None:
    builder, size = rows.builder, format_.dtype.itemsize
    number = {2: I16, 4: I32}[size]
    in_word = 4 // size
    together = FOUR * in_word
    whole = columns // together * together
    with builder.loop(whole, 0, together) as column:
        out = panel + column * (PANEL * size)
        for place, word in enumerate(rows.at(column * size).words(FOUR)):
            for part in range(in_word):
                beside = place * in_word + part
                builder.store((word >> 8 * size * part).to(number), out + PANEL * size * beside)
    with builder.loop(columns, whole) as column:
        rows.at(column * size).copy(number, size, panel + column * (PANEL * size))


# --- grouped: records ----------------------------------------------------------------------------


def _pack_grouped(rows: _Rows, format_: Grouped, blocks: Value, panel: Value) -> None:
    with rows.builder.loop(blocks) as block:
        stored = rows.at(block * format_.block_bytes)
        record = panel + block * format_.record.itemsize
        words = {}
        for name, place, count in format_.stored.fields():
            if count:
                assert place + -(-count // FOUR) * FOUR * 4 <= format_.block_bytes
                words[name] = stored.at(place).words(count)
            else:
                stored.at(place).copy(I16, 2, record + place_of(format_, name))
        codes = format_.stored.parse(words)
        for index in range(format_.block // GROUP):
            group = record + (place_of(format_, "groups") + index * format_.group.itemsize)
            _pack_group(rows.builder, format_, group, codes, index)


def _pack_group(
    builder: KernelBuilder, format_: Grouped, group: Value, codes: Codes, index: int
) -> None:
    """`group`: where to write; `index`: which of its block it is."""

    def write(name: str, values: Sequence[Value], size: int) -> None:
        for i, value in enumerate(values):
            builder.store(value, group + (place_of(format_, name) + PANEL * size * i))

    for name, planes in format_.planes(codes, index).items():
        write(name, planes, 4)
    for name, steps in format_.steps(codes, index).items():
        write(name, [step.to(I8) for step in steps], 1)
