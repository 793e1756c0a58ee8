"""How kernels read the formats of `../packed.py`: sixteen rows at a time, into registers."""

from __future__ import annotations

from dataclasses import dataclass

from ..jit.kernel_builder import F16, F32, I8, I16, I32, KernelBuilder, Type, Value, vector
from ..packed import GROUP, PANEL, QUAD, Grouped, Plain

ROWS = vector(F32, PANEL)
QUADS = GROUP // QUAD


@dataclass(frozen=True)
class Group:
    """A group of 32 columns, unpacked."""

    scales: list[Value]  # [16 × f32], one or two
    minimum: Value | None  # [16 × f32]
    quads: list[Value]  # 8 · [64 × i8]: codes of four columns of each row


def numbers(builder: KernelBuilder, format_: Plain, address: Value, lanes: int = PANEL) -> Value:
    """So many stored numbers as float32."""
    if format_.name == "F32":
        return builder.load(vector(F32, lanes), address)
    bits = builder.load(vector(I16, lanes), address)
    if format_.name == "BF16":
        wide = bits.to(I32, signed=False) << 16
        return wide.bitcast(vector(F32, lanes))
    return half_to_float(builder, bits)


def half_to_float(builder: KernelBuilder, bits: Value) -> Value:
    """float16, as 16 bits, to float32."""
    lanes = bits.lanes
    if builder.instruction_set.has_half:
        return bits.bitcast(vector(F16, lanes)).to(F32)
    # Sign and magnitude in their places; exponents are 112 apart, but infinity and NaN have the
    # largest in both.
    placed = (bits.to(I32, signed=False) << 16).arithmetic_shift_right(3) & 0x8FFFE000
    scaled = placed.bitcast(vector(F32, lanes)) * 2.0**112
    largest = 31 << 23
    special = (placed & largest).equals(largest)
    missing = special.select(builder.constant(placed.type, 0x7F800000), 0)
    return (scaled.bitcast(placed.type) | missing).bitcast(scaled.type)


def place_of(format_: Grouped, name: str) -> int:
    """Where a field of a record, or of a group, begins."""
    fields = (
        format_.record.fields if name in ("scale", "minimum", "groups") else format_.group.fields
    )
    assert fields is not None
    return int(fields[name][1])


def block_scales(
    builder: KernelBuilder, format_: Grouped, record: Value
) -> tuple[Value, Value | None]:
    """The scale of a record's rows, and their minimum."""
    halves = vector(I16, PANEL)
    scale = half_to_float(builder, builder.load(halves, record + place_of(format_, "scale")))
    if not format_.has_minimum:
        return scale, None
    return scale, half_to_float(
        builder, builder.load(halves, record + place_of(format_, "minimum"))
    )


def unpack_group(
    builder: KernelBuilder, format_: Grouped, group: Value, scale: Value, minimum: Value | None
) -> Group:
    """`scale`, `minimum`: the record's (`block_scales`)."""
    scales = [scale]
    if format_.is_nested:
        steps = group + place_of(format_, "step")
        scales = [
            scale * _bytes_as_floats(builder, steps + PANEL * i) for i in range(format_.scales)
        ]
        if minimum is not None:
            step = _bytes_as_floats(builder, group + place_of(format_, "minimum_step"))
            minimum = (builder.constant(ROWS, 0.0) - minimum) * step
    return Group(scales, minimum, _quads(builder, format_, group))


def _bytes_as_floats(builder: KernelBuilder, address: Value) -> Value:
    return builder.load(vector(I8, PANEL), address).to(F32)


def _quads(builder: KernelBuilder, format_: Grouped, group: Value) -> list[Value]:
    low = group + place_of(format_, "low")
    if format_.bits == 8:
        return [builder.load(_BYTES, low + 64 * quad) for quad in range(QUADS)]
    quads = []
    for pair in range(QUADS // 2):
        both = builder.load(_BYTES, low + 64 * pair)
        quads += [both & 15, _shifted(both, 4) & 15]
    if format_.bits == 4:
        return quads
    width = format_.bits - 4
    planes = [
        builder.load(_BYTES, group + place_of(format_, "high") + 64 * plane)
        for plane in range(width)
    ]
    mask = ((1 << width) - 1) << 4
    return [
        quad | _moved(planes[i * width // 8], 4 - i * width % 8) & mask
        for i, quad in enumerate(quads)
    ]


_BYTES: Type = vector(I8, PANEL * QUAD)
_WORDS: Type = vector(I16, 2 * PANEL)


def _shifted(quads: Value, bits: int) -> Value:
    """Right, two bytes at a time: there is no shift of single bytes, and a mask follows."""
    return (quads.bitcast(_WORDS) >> bits).bitcast(_BYTES)


def _moved(quads: Value, left: int) -> Value:
    if left <= 0:
        return _shifted(quads, -left)
    return (quads.bitcast(_WORDS) << left).bitcast(_BYTES)


def element(
    builder: KernelBuilder, format_: Plain | Grouped, panel: Value, lane: Value, column: Value
) -> Value:
    """One number of a panel, by row and column: the slow way in, for single rows."""
    if isinstance(format_, Plain):
        return numbers(
            builder, format_, panel + (column * PANEL + lane) * format_.dtype.itemsize, 1
        )
    return _grouped_element(builder, format_, panel, lane, column)


def _grouped_element(
    builder: KernelBuilder, format_: Grouped, panel: Value, lane: Value, column: Value
) -> Value:
    record = panel + (column // format_.block) * format_.record.itemsize
    inside = column % GROUP
    group = (column % format_.block) // GROUP * format_.group.itemsize
    group_at = record + place_of(format_, "groups") + group
    value = _code_at(builder, format_, group_at, lane, inside).to(F32) - float(format_.offset)
    scale = half_to_float(
        builder, builder.load(I16, record + place_of(format_, "scale") + lane * 2)
    )
    if format_.is_nested:
        half = inside // (GROUP // format_.scales) * PANEL
        step = builder.load(I8, group_at + place_of(format_, "step") + half + lane)
        scale = scale * step.to(F32)
    value = value * scale
    if format_.has_minimum:
        where = record + place_of(format_, "minimum") + lane * 2
        minimum = half_to_float(builder, builder.load(I16, where))
        if format_.is_nested:
            step = builder.load(I8, group_at + place_of(format_, "minimum_step") + lane)
            minimum = (minimum * step.to(F32)) * -1.0
        value = value + minimum
    return value


def _code_at(
    builder: KernelBuilder, format_: Grouped, group: Value, lane: Value, column: Value
) -> Value:
    quad, byte = column // QUAD, lane * QUAD + column % QUAD
    low = group + place_of(format_, "low")
    if format_.bits == 8:
        return builder.load(I8, low + quad * 64 + byte).to(I32, signed=False)
    both = builder.load(I8, low + quad // 2 * 64 + byte).to(I32, signed=False)
    found = (both >> (quad % 2 * 4).to(I32)) & 15
    if format_.bits == 4:
        return found
    width = format_.bits - 4
    place = quad * width
    plane = builder.load(I8, group + place_of(format_, "high") + place // 8 * 64 + byte)
    high = (plane.to(I32, signed=False) >> (place % 8).to(I32)) & ((1 << width) - 1)
    return found | high << 4
