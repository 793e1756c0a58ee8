"""Packs weights as they are loaded: sixteen rows of a file at a time, into a panel.

The bytes of a panel are those that `pack` in `../packed.py` gives. Blocks are unpacked by
`files/quantized_blocks.py`, run here on registers: a word of each of sixteen rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...files.quantized_blocks import GROUP
from ...files.tensor import HostArray
from ..jit.compiler import Kernel
from ..jit.kernel_builder import I8, I16, I32, I64, POINTER, KernelBuilder, Type, Value, vector
from ..packed import PANEL, Bytes, Format, Grouped, Plain
from .dots import concatenate
from .unpacking import offset_of

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
    """Return a kernel, its chunks and its arguments, that fill `panels` as `format_.pack(rows)`."""
    rows = np.ascontiguousarray(rows, format_.dtype if isinstance(format_, Plain) else np.uint8)
    blocks = panels.shape[1] // format_.panel_bytes(format_.block_columns)
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
        panel_bytes = a.blocks * format_.panel_bytes(format_.block_columns)
        first = chunk * a.panels_in_chunk
        with builder.loop((first + a.panels_in_chunk).minimum(a.count), first) as index:
            rows = _Rows(builder, a.rows + index * PANEL * row_bytes, row_bytes)
            panel = a.panels + index * panel_bytes
            if isinstance(format_, Plain):
                _pack_plain(rows, format_, a.blocks, panel)
            else:
                _pack_grouped(rows, format_, a.blocks, panel)

    return Kernel(f"pack_{format_.name.lower()}", FIELDS, body)


@dataclass(frozen=True)
class _Rows:
    """Sixteen rows of a file, from some byte of each on."""

    builder: KernelBuilder
    address: Value  # of that byte of the first row
    stride: Value  # bytes from there to the next row's

    def at(self, offset: Value | int) -> _Rows:
        return replace(self, address=self.address + offset)

    def load(self, type_: Type) -> list[Value]:
        """Load a value of each row."""
        return [self.builder.load(type_, self.address + self.stride * row) for row in range(PANEL)]

    def load_words(self, count: int) -> list[Value]:
        """Load [count, 16 rows] words; up to three beyond them are read too."""
        fours = (self.at(4 * start).load(vector(I32, FOUR)) for start in range(0, count, FOUR))
        return list(chain.from_iterable(_transpose(four) for four in fours))[:count]

    def copy(self, type_: Type, size: int, to: Value) -> None:
        """Store a value of each row, of `size` bytes, side by side."""
        for row, number in enumerate(self.load(type_)):
            self.builder.store(number, to + size * row)


def _transpose(rows: Sequence[Value]) -> list[Value]:
    """[16 rows, 4] → [4, 16 rows]. All but the first step stays within quarters of a register."""
    a, b, c, d = (
        concatenate([concatenate(four[:2]), concatenate(four[2:])])
        for four in (rows[start::FOUR] for start in range(FOUR))
    )
    columns = []
    for pairs in ((0, 4, 1, 5), (2, 6, 3, 7)):
        left, right = _shuffle_quarters(a, b, pairs), _shuffle_quarters(c, d, pairs)
        columns += [_shuffle_quarters(left, right, half) for half in ((0, 1, 4, 5), (2, 3, 6, 7))]
    return columns


def _shuffle_quarters(first: Value, second: Value, places: Sequence[int]) -> Value:
    """In each run of four lanes, take those of the first vector, or from 4 on of the second."""
    runs = range(0, first.lanes, FOUR)
    lanes = [run + place % FOUR + place // FOUR * first.lanes for run in runs for place in places]
    return first.shuffle(lanes, second)


# --- plain: columns side by side -----------------------------------------------------------------


def _pack_plain(rows: _Rows, format_: Plain, columns: Value, panel: Value) -> None:
    builder, size = rows.builder, format_.dtype.itemsize
    number = {2: I16, 4: I32}[size]
    in_word = 4 // size
    unrolled = FOUR * in_word
    end = columns // unrolled * unrolled
    with builder.loop(end, 0, unrolled) as column:
        out = panel + column * (PANEL * size)
        for index, word in enumerate(rows.at(column * size).load_words(FOUR)):
            for part in range(in_word):
                place = index * in_word + part
                builder.store((word >> 8 * size * part).to(number), out + PANEL * size * place)
    with builder.loop(columns, end) as column:
        rows.at(column * size).copy(number, size, panel + column * (PANEL * size))


# --- grouped: records ----------------------------------------------------------------------------


def _pack_grouped(rows: _Rows, format_: Grouped, blocks: Value, panel: Value) -> None:
    builder, layout = rows.builder, format_.layout

    def store(group: Value, name: str, values: Sequence[Value], size: int) -> None:
        for i, value in enumerate(values):
            builder.store(value, group + (offset_of(format_, name) + PANEL * size * i))

    with builder.loop(blocks) as block:
        stored = rows.at(block * format_.block_bytes)
        record = panel + block * format_.record.itemsize
        words = {}
        for name, offset, count in layout.fields():
            if count:
                assert offset + -(-count // FOUR) * FOUR * 4 <= format_.block_bytes
                words[name] = stored.at(offset).load_words(count)
            else:
                stored.at(offset).copy(I16, 2, record + offset_of(format_, name))
        quants = layout.unpack(words)
        for index in range(layout.columns // GROUP):
            group = record + (offset_of(format_, "groups") + index * format_.group.itemsize)
            for name, planes in format_.planes(quants, index).items():
                store(group, name, planes, 4)
            for name, sub_scales in format_.sub_scales(quants, index).items():
                store(group, name, [each.to(I8) for each in sub_scales], 1)
