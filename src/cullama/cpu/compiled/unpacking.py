"""Loads weights in the formats of `../packed.py` into registers: sixteen rows at a time, as float32
or as quants and their scales.

What a format means is numpy's to say, in `../packed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...files.quantized_blocks import GROUP
from ..jit.kernel_builder import F16, F32, I8, I16, I32, KernelBuilder, Type, Value, vector
from ..packed import PACKED4, PANEL, WORDS_IN_GROUP, Grouped, Plain

ROWS = vector(F32, PANEL)

PACKED4_BYTES = PANEL * PACKED4  # quants of four columns of each row
_BYTES: Type = vector(I8, PACKED4_BYTES)
_WORDS: Type = vector(I16, PACKED4_BYTES // 2)


@dataclass(frozen=True)
class Group:
    """A group of 32 columns, unpacked."""

    scales: list[Value]  # [16 × f32], one or two
    minimum: Value | None  # [16 × f32]
    packed4: list[Value]  # 8 · [64 × i8]: quants of four columns of each row


# --- plain formats -------------------------------------------------------------------------------


def load_floats(
    builder: KernelBuilder, format_: Plain, address: Value, lanes: int = PANEL
) -> Value:
    """Load so many stored numbers as float32."""
    if format_.name == "F32":
        return builder.load(vector(F32, lanes), address)
    bits = builder.load(vector(I16, lanes), address)
    if format_.name == "BF16":
        return (bits.to(I32, signed=False) << 16).bitcast(vector(F32, lanes))
    return half_to_float(builder, bits)


def half_to_float(builder: KernelBuilder, bits: Value) -> Value:
    """Convert the 16 bits of a float16 to float32."""
    lanes = bits.lanes
    if builder.instruction_set.has_half:
        return bits.bitcast(vector(F16, lanes)).to(F32)
    # Sign and magnitude in their places; exponents are 112 apart, but infinity and NaN have the
    # largest in both.
    placed = (bits.to(I32, signed=False) << 16).arithmetic_shift_right(3) & 0x8FFFE000
    scaled = placed.bitcast(vector(F32, lanes)) * 2.0**112
    max_exponent = 31 << 23
    is_special = (placed & max_exponent).equals(max_exponent)
    missing = is_special.select(builder.constant(placed.type, 0x7F800000), 0)
    return (scaled.bitcast(placed.type) | missing).bitcast(scaled.type)


# --- grouped formats -----------------------------------------------------------------------------


def offset_of(format_: Grouped, name: str) -> int:
    """Return a field's offset in bytes, in a record or in a group."""
    fields = (
        format_.record.fields if name in ("scale", "minimum", "groups") else format_.group.fields
    )
    assert fields is not None
    return int(fields[name][1])


def load_block_scales(
    builder: KernelBuilder, format_: Grouped, record: Value
) -> tuple[Value, Value | None]:
    """Load a record's scale and minimum, [16 × f32] each."""
    halves = vector(I16, PANEL)
    scale = half_to_float(builder, builder.load(halves, record + offset_of(format_, "scale")))
    if not format_.layout.has_minimum:
        return scale, None
    minimum = builder.load(halves, record + offset_of(format_, "minimum"))
    return scale, half_to_float(builder, minimum)


def load_group(
    builder: KernelBuilder, format_: Grouped, group: Value, scale: Value, minimum: Value | None
) -> Group:
    """Load the group at an address; `scale` and `minimum` are its record's."""

    def load_bytes(address: Value) -> Value:
        return builder.load(vector(I8, PANEL), address).to(F32)

    scales = [scale]
    if format_.is_nested:
        first, count = group + offset_of(format_, "sub_scales"), format_.layout.scales_per_group
        scales = [scale * load_bytes(first + PANEL * i) for i in range(count)]
        if minimum is not None:
            sub_minimum = load_bytes(group + offset_of(format_, "sub_minimums"))
            minimum = (builder.constant(ROWS, 0.0) - minimum) * sub_minimum
    return Group(scales, minimum, _load_quants(builder, format_, group))


def _load_quants(builder: KernelBuilder, format_: Grouped, group: Value) -> list[Value]:
    bits, low = format_.layout.bits, group + offset_of(format_, "low")
    if bits == 8:
        return [builder.load(_BYTES, low + PACKED4_BYTES * i) for i in range(WORDS_IN_GROUP)]
    packed4 = []
    for pair in range(WORDS_IN_GROUP // 2):
        both = builder.load(_BYTES, low + PACKED4_BYTES * pair)
        packed4 += [both & 15, _shift_bytes(both, 4) & 15]
    if bits == 4:
        return packed4
    width = bits - 4
    offset = offset_of(format_, "high")
    planes = [
        builder.load(_BYTES, group + offset + PACKED4_BYTES * plane) for plane in range(width)
    ]
    mask = ((1 << width) - 1) << 4
    return [
        quants | _shift_bytes(planes[i * width // 8], i * width % 8 - 4) & mask
        for i, quants in enumerate(packed4)
    ]


def _shift_bytes(quants: Value, right: int) -> Value:
    """Shift to the right, or if negative to the left, two bytes at a time: no instruction shifts
    single bytes. A mask has to follow."""
    words = quants.bitcast(_WORDS)
    return (words >> right if right >= 0 else words << -right).bitcast(_BYTES)


# --- single numbers: the slow way, for single rows -----------------------------------------------


def load_element(
    builder: KernelBuilder, format_: Plain | Grouped, panel: Value, lane: Value, column: Value
) -> Value:
    """Load one number of a panel."""
    if isinstance(format_, Plain):
        offset = (column * PANEL + lane) * format_.dtype.itemsize
        return load_floats(builder, format_, panel + offset, 1)
    layout = format_.layout
    record = panel + (column // layout.columns) * format_.record.itemsize
    inside = column % GROUP
    group = (column % layout.columns) // GROUP * format_.group.itemsize
    group_at = record + offset_of(format_, "groups") + group
    quant = _load_quant(builder, format_, group_at, lane, inside)
    value = quant.to(F32) - float(layout.offset)
    scale = builder.load(I16, record + offset_of(format_, "scale") + lane * 2)
    scale = half_to_float(builder, scale)
    if format_.is_nested:
        half = inside // (GROUP // layout.scales_per_group) * PANEL
        sub_scale = builder.load(I8, group_at + offset_of(format_, "sub_scales") + half + lane)
        scale = scale * sub_scale.to(F32)
    value = value * scale
    if layout.has_minimum:
        offset = record + offset_of(format_, "minimum") + lane * 2
        minimum = half_to_float(builder, builder.load(I16, offset))
        if format_.is_nested:
            sub_minimum = builder.load(I8, group_at + offset_of(format_, "sub_minimums") + lane)
            minimum = (minimum * sub_minimum.to(F32)) * -1.0
        value = value + minimum
    return value


def _load_quant(
    builder: KernelBuilder, format_: Grouped, group: Value, lane: Value, column: Value
) -> Value:
    word, byte = column // PACKED4, lane * PACKED4 + column % PACKED4
    bits, low = format_.layout.bits, group + offset_of(format_, "low")
    if bits == 8:
        return builder.load(I8, low + word * PACKED4_BYTES + byte).to(I32, signed=False)
    both = builder.load(I8, low + word // 2 * PACKED4_BYTES + byte).to(I32, signed=False)
    quant = (both >> (word % 2 * 4).to(I32)) & 15
    if bits == 4:
        return quant
    width = bits - 4
    bit = word * width
    plane = group + offset_of(format_, "high") + bit // 8 * PACKED4_BYTES + byte
    high = builder.load(I8, plane).to(I32, signed=False) >> (bit % 8).to(I32)
    return quant | (high & ((1 << width) - 1)) << 4
