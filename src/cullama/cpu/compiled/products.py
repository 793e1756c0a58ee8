"""Products with packed weights: x · weightᵀ (+ bias) (+ residual), for one token or a thousand.

A panel of weights is read from memory once, unpacked into registers, and multiplied with a tile of
tokens at a time; the tiles that follow find the panel in the nearest cache. Weights are prefetched:
beside several tokens' sums the processor alone looks too short a way ahead. A token's sums are
taken in the same order in every tile, so its numbers do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from ...files.quantized_blocks import GROUP
from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I64, POINTER, KernelBuilder, Value, Variable, vector
from ..packed import PANEL, WORDS_IN_GROUP, Format, Grouped, Plain
from .activation_quantisation import RECORD, SCALE, SCALED_SUM
from .dots import int_dot
from .unpacking import ROWS, Group, load_block_scales, load_floats, load_group, offset_of

FIELDS = {
    "x": POINTER,  # [T, I] float32, or [T, I / 32] records of quantised activations
    "weight": POINTER,  # [panels, bytes of a panel]
    "out": POINTER,  # [T, stride] float32, from this weight's first column on
    "bias": POINTER,  # [rows] or null
    "residual": POINTER,  # as out, or null
    "tokens": I64,
    "blocks": I64,  # in a row of the weight; a plain format has one number in a block
    "rows": I64,
    "stride": I64,
    "panels_in_chunk": I64,
    "tokens_in_chunk": I64,
}

UNROLL = 8  # columns of plain weights

# How far ahead weights are prefetched, in bytes. 2 and 8 KB did as well; with none, products for
# eight tokens took 1.5 times as long, and those for one a few hundredths less.
PREFETCH_DISTANCE = 4096
CACHE_LINE = 64  # bytes


def product_kernel(format_: Format) -> Kernel:
    """A chunk is some panels and some tokens."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        panels = (a.rows + (PANEL - 1)) // PANEL
        panel_chunks = (panels + (a.panels_in_chunk - 1)) // a.panels_in_chunk
        panel = chunk % panel_chunks * a.panels_in_chunk
        token = chunk // panel_chunks * a.tokens_in_chunk
        end = (token + a.tokens_in_chunk).minimum(a.tokens)
        with builder.loop((panel + a.panels_in_chunk).minimum(panels), panel) as index:
            # Tiles of as many tokens as registers allow, then of half as many, and so on.
            start, size = token, builder.instruction_set.max_accumulators
            while size:
                stop = start + (end - start) // size * size
                with builder.loop(stop, start, size) as first:
                    sums = [builder.variable(builder.constant(ROWS, 0.0)) for _ in range(size)]
                    if isinstance(format_, Plain):
                        _add_plain(builder, format_, a, index, first, sums)
                    else:
                        _add_grouped(builder, format_, a, index, first, sums)
                    for i, total in enumerate(sums):
                        _store_sums(builder, a, index, first + i, total.get())
                start, size = stop, size // 2

    return Kernel(f"product_{format_.name.lower()}", FIELDS, body)


def _add_plain(
    builder: KernelBuilder,
    format_: Plain,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    sums: Sequence[Variable],
) -> None:
    """Emit sums += panel · x, column by column."""
    column_bytes = PANEL * format_.dtype.itemsize
    weight = a.weight + panel * (a.blocks * column_bytes)
    x = a.x + token * (a.blocks * 4)

    def add_column(column: Value) -> None:
        rows = load_floats(builder, format_, weight + column * column_bytes)
        for i, total in enumerate(sums):
            number = builder.load(F32, x + a.blocks * (4 * i) + column * 4)
            total.set(builder.fma(rows, number.splat(PANEL), total.get()))

    unrolled = a.blocks // UNROLL * UNROLL
    with builder.loop(unrolled, 0, UNROLL) as first:
        _prefetch(builder, len(sums), weight + first * column_bytes, UNROLL * column_bytes)
        for i in range(UNROLL):
            add_column(first + i)
    with builder.loop(a.blocks, unrolled) as column:
        add_column(column)


def _add_grouped(
    builder: KernelBuilder,
    format_: Grouped,
    a: SimpleNamespace,
    panel: Value,
    token: Value,
    sums: Sequence[Variable],
) -> None:
    """Emit sums += panel · x, group by group."""
    groups = format_.block_columns // GROUP
    record_bytes, group_bytes = format_.record.itemsize, format_.group.itemsize
    share = record_bytes // groups
    weight = a.weight + panel * (a.blocks * record_bytes)
    row_bytes = a.blocks * (groups * RECORD)  # of a token's activations
    x = a.x + token * row_bytes
    with builder.loop(a.blocks) as block:
        record = weight + block * record_bytes
        scale, minimum = load_block_scales(builder, format_, record)
        with builder.loop(groups) as index:
            _prefetch(builder, len(sums), record + index * share, share)
            address = record + offset_of(format_, "groups") + index * group_bytes
            group = load_group(builder, format_, address, scale, minimum)
            activations = x + (block * groups + index) * RECORD
            for i, total in enumerate(sums):
                row = activations + row_bytes * i
                total.set(_accumulate_group(builder, format_, group, row, total.get()))


def _accumulate_group(
    builder: KernelBuilder, format_: Grouped, group: Group, activations: Value, sums: Value
) -> Value:
    """Add the products of a group's columns and a token's activations."""
    count = WORDS_IN_GROUP // format_.layout.scales_per_group
    for index, scale in enumerate(group.scales):
        packed4 = group.packed4[index * count : (index + 1) * count]
        dot = int_dot(builder, format_, packed4, activations, index)
        number = dot.to(F32) * builder.load(F32, activations + SCALE).splat(PANEL)
        sums = builder.fma(number, scale, sums)
    if group.minimum is None:
        return sums
    scaled_sum = builder.load(F32, activations + SCALED_SUM).splat(PANEL)
    return builder.fma(group.minimum, scaled_sum, sums)


def _prefetch(builder: KernelBuilder, tokens: int, address: Value, size: int) -> None:
    """Prefetch as many bytes as are read from an address, some way behind them.

    One token alone leaves the processor's own prefetching time enough.
    """
    if tokens > 1:
        for offset in range(PREFETCH_DISTANCE, PREFETCH_DISTANCE + size, CACHE_LINE):
            builder.prefetch(address + offset)


def _store_sums(
    builder: KernelBuilder, a: SimpleNamespace, panel: Value, token: Value, sums: Value
) -> None:
    """Store a token's sums; one by one where the last panel has more rows than the matrix."""
    row = panel * PANEL
    left = a.rows - row
    offset = (token * a.stride + row) * 4

    def store(row: Value, offset: Value, total: Variable, lanes: int) -> None:
        type_ = vector(F32, lanes)
        with builder.when(builder.is_not_null(a.bias)):
            total.add(builder.load(type_, a.bias + row * 4))
        with builder.when(builder.is_not_null(a.residual)):
            total.add(builder.load(type_, a.residual + offset))
        builder.store(total.get(), a.out + offset)

    with builder.llvm.if_else((left >= PANEL).ir) as (all_rows, some_rows):
        with all_rows:
            store(row, offset, builder.variable(sums), PANEL)
        with some_rows:
            lanes = builder.alloca(4 * PANEL)
            builder.store(sums, lanes)
            with builder.loop(left) as lane:
                total = builder.variable(builder.load(F32, lanes + lane * 4))
                store(row + lane, offset + lane * 4, total, 1)
