"""Products with packed weights: x · weightᵀ (+ bias) (+ residual), for one token or a thousand.

A panel of weights is read from memory once, unpacked into registers, and met by a block of tokens
at a time; the blocks of a panel find it in the nearest cache. What is read next is asked for before
it is needed: beside several tokens' sums the processor alone looks too short a way ahead. A
token's sums are taken in the same order in every block, so its numbers do not depend on who else is
in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I64, POINTER, KernelBuilder, Value, Variable, vector
from ..packed import GROUP, PANEL, Format, Grouped, Plain
from . import dots
from .digits import RECORD, SCALE, SCALED_SUM
from .unpacking import QUADS, ROWS, Group, block_scales, numbers, place_of, unpack_group

FIELDS = {
    "x": POINTER,  # [T, I] float32, or [T, I / 32] records of digits
    "weight": POINTER,  # [panels, bytes of a panel]
    "out": POINTER,  # [T, stride] float32, from this weight's first column on
    "bias": POINTER,  # [rows] or nothing
    "residual": POINTER,  # as out, or nothing
    "tokens": I64,
    "blocks": I64,  # of the format in a row
    "rows": I64,
    "stride": I64,
    "panels_in_chunk": I64,
    "tokens_in_chunk": I64,
}

TURNS = 8  # columns of plain weights written out one after the other

# So many bytes further on are the weights that are asked for. 2 and 8 KB did as well; with none,
# products for eight tokens took 1.5 times as long, and those for one a few hundredths less.
AHEAD = 4096
LINE = 64  # bytes of a cache line

# Unpacks a panel and adds its products to a block of tokens' sums.
Sums = Callable[[KernelBuilder, Format, SimpleNamespace, Value, Value, list[Variable]], None]


def product_kernel(format_: Format) -> Kernel:
    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        _product(builder, format_, a, chunk)

    return Kernel(f"product_{format_.name.lower()}", FIELDS, body)


def _product(builder: KernelBuilder, format_: Format, a: SimpleNamespace, chunk: Value) -> None:
    panels = (a.rows + (PANEL - 1)) // PANEL
    across = (panels + (a.panels_in_chunk - 1)) // a.panels_in_chunk
    panel = chunk % across * a.panels_in_chunk
    token = chunk // across * a.tokens_in_chunk
    last_token = (token + a.tokens_in_chunk).minimum(a.tokens)
    with builder.loop((panel + a.panels_in_chunk).minimum(panels), panel) as at:
        _panel(builder, format_, a, at, token, last_token)


def _panel(
    builder: KernelBuilder,
    format_: Format,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    end: Value,
) -> None:
    """Blocks as large as registers allow, then halves of that: each is written out by itself."""
    size = builder.instruction_set.registers
    start = token
    while size:
        stop = start + (end - start) // size * size
        with builder.loop(stop, start, size) as first:
            _block(builder, format_, a, panel, first, size)
        start, size = stop, size // 2


def _block(
    builder: KernelBuilder,
    format_: Format,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    size: int,
) -> None:
    sums = [builder.variable(builder.constant(ROWS, 0.0)) for _ in range(size)]
    if isinstance(format_, Plain):
        _plain_sums(builder, format_, a, panel, token, sums)
    else:
        _grouped_sums(builder, format_, a, panel, token, sums)
    for i, total in enumerate(sums):
        _write(builder, a, panel, token + i, total.get())


def _plain_sums(
    builder: KernelBuilder,
    format_: Plain,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    sums: list[Variable],
) -> None:
    column_bytes = PANEL * format_.dtype.itemsize
    weight = a.weight + panel * (a.blocks * column_bytes)
    x = a.x + token * (a.blocks * 4)

    def column(at: Value) -> None:
        rows = numbers(builder, format_, weight + at * column_bytes)
        for i, total in enumerate(sums):
            number = builder.load(F32, x + a.blocks * (4 * i) + at * 4)
            total.set(builder.fma(rows, number.splat(PANEL), total.get()))

    together = a.blocks // TURNS * TURNS
    with builder.loop(together, 0, TURNS) as first:
        _ask_ahead(builder, sums, weight + first * column_bytes, TURNS * column_bytes)
        for turn in range(TURNS):
            column(first + turn)
    with builder.loop(a.blocks, together) as rest:
        column(rest)


def _ask_ahead(builder: KernelBuilder, sums: list[Variable], address: Value, size: int) -> None:
    """While so many bytes are read, as many further on are brought nearer, but for one token."""
    if len(sums) > 1:
        for line in range(AHEAD, AHEAD + size, LINE):
            builder.prefetch(address + line)


def _grouped_sums(
    builder: KernelBuilder,
    format_: Grouped,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    sums: list[Variable],
) -> None:
    groups = format_.block // GROUP
    record_bytes, group_bytes = format_.record.itemsize, format_.group.itemsize
    share = record_bytes // groups
    weight = a.weight + panel * (a.blocks * record_bytes)
    row_bytes = a.blocks * (groups * RECORD)  # of a token's digits
    x = a.x + token * row_bytes
    with builder.loop(a.blocks) as block:
        record = weight + block * record_bytes
        scale, minimum = block_scales(builder, format_, record)
        with builder.loop(groups) as group:
            _ask_ahead(builder, sums, record + group * share, share)
            where = record + place_of(format_, "groups") + group * group_bytes
            unpacked = unpack_group(builder, format_, where, scale, minimum)
            digits = x + (block * groups + group) * RECORD
            for i, total in enumerate(sums):
                total.set(_gained(builder, format_, unpacked, digits + row_bytes * i, total.get()))


def _gained(
    builder: KernelBuilder, format_: Grouped, group: Group, digits: Value, sums: Value
) -> Value:
    """Sums, with the products of a group's columns and a token's digits."""
    share = QUADS // format_.scales
    for place, scale in enumerate(group.scales):
        quads = group.quads[place * share : (place + 1) * share]
        whole = dots.whole(builder, format_, quads, digits, place)
        number = whole.to(F32) * builder.load(F32, digits + SCALE).splat(PANEL)
        sums = builder.fma(number, scale, sums)
    if group.minimum is None:
        return sums
    return builder.fma(group.minimum, builder.load(F32, digits + SCALED_SUM).splat(PANEL), sums)


def _write(
    builder: KernelBuilder, a: SimpleNamespace, panel: Value, token: Value, sums: Value
) -> None:
    """Where the last panel has rows that are none of the matrix, one number at a time."""
    row = panel * PANEL
    left = a.rows - row
    place = (token * a.stride + row) * 4
    with builder.llvm.if_else((left >= PANEL).ir) as (all_of_them, some):
        with all_of_them:
            _finish(builder, a, row, place, builder.variable(sums), PANEL)
        with some:
            lanes = builder.alloca(4 * PANEL)
            builder.store(sums, lanes)
            with builder.loop(left) as lane:
                number = builder.variable(builder.load(F32, lanes + lane * 4))
                _finish(builder, a, row + lane, place + lane * 4, number, 1)


def _finish(
    builder: KernelBuilder, a: SimpleNamespace, row: Value, place: Value, sums: Variable, lanes: int
) -> None:
    type_ = vector(F32, lanes)
    with builder.when(builder.is_not_null(a.bias)):
        sums.add(builder.load(type_, a.bias + row * 4))
    with builder.when(builder.is_not_null(a.residual)):
        sums.add(builder.load(type_, a.residual + place))
    builder.store(sums.get(), a.out + place)
