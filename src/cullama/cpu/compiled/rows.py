"""Kernels that go over rows: norms, SwiGLU's middle, picking rows, rotation and the cache's writes.

What they compute is said by the numpy operators of the same names (`../operators.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import e, gcd, log2
from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I16, I32, I64, POINTER, KernelBuilder, Type, Value, vector
from ..packed import PANEL, Format, Plain
from .unpacking import load_element

LANES = 16
ROWS_IN_CHUNK = 4


def lanes_of(type_: Type, lanes: int) -> Type:
    return vector(type_, lanes) if lanes > 1 else type_


def _each(builder: KernelBuilder, count: Value, body: Callable[[Value, int], None]) -> None:
    """body(place, lanes) for all places, sixteen at a time and the rest one by one."""
    whole = count // LANES * LANES
    with builder.loop(whole, 0, LANES) as place:
        body(place, LANES)
    with builder.loop(count, whole) as place:
        body(place, 1)


def _rows(builder: KernelBuilder, rows: Value, chunk: Value, body: Callable[[Value], None]) -> None:
    first = chunk * ROWS_IN_CHUNK
    with builder.loop((first + ROWS_IN_CHUNK).minimum(rows), first) as row:
        body(row)


def _load(builder: KernelBuilder, address: Value, place: Value, lanes: int) -> Value:
    return builder.load(lanes_of(F32, lanes), address + place * 4)


# --- rms_norm ------------------------------------------------------------------------------------


def _rms_norm(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    def row(at: Value) -> None:
        start = at * a.columns * 4
        norm(builder, a.x + start, a.weight, a.out + start, a.columns, a.eps)

    _rows(builder, a.rows, chunk, row)


def norm(
    builder: KernelBuilder, x: Value, weight: Value, out: Value, columns: Value, eps: Value
) -> None:
    """One row: out = x / √(mean x² + eps) · weight."""
    many = builder.variable(builder.constant(vector(F32, LANES), 0.0))
    few = builder.variable(builder.constant(F32, 0.0))

    def square(place: Value, lanes: int) -> None:
        number, total = _load(builder, x, place, lanes), many if lanes > 1 else few
        total.set(builder.fma(number, number, total.get()))

    _each(builder, columns, square)
    mean = (many.get().reduce_add() + few.get()) / columns.to(F32)
    scale = builder.constant(F32, 1.0) / builder.sqrt(mean + eps)

    def write(place: Value, lanes: int) -> None:
        scaled = _load(builder, x, place, lanes) * scale.splat(lanes)
        builder.store(scaled * _load(builder, weight, place, lanes), out + place * 4)

    _each(builder, columns, write)


RMS_NORM = Kernel(
    "rms_norm",
    {"x": POINTER, "weight": POINTER, "out": POINTER, "rows": I64, "columns": I64, "eps": F32},
    _rms_norm,
)

# --- silu_mul ------------------------------------------------------------------------------------


def _silu_mul(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    def row(at: Value) -> None:
        gate = a.gate_up + at * a.half * 8
        up, out = gate + a.half * 4, a.out + at * a.half * 4

        def write(place: Value, lanes: int) -> None:
            x = _load(builder, gate, place, lanes)
            one = builder.constant(x.type, 1.0)
            silu = x / (one + exp(builder, x * -1.0))
            builder.store(silu * _load(builder, up, place, lanes), out + place * 4)

        _each(builder, a.half, write)

    _rows(builder, a.rows, chunk, row)


SILU_MUL = Kernel(
    "silu_mul", {"gate_up": POINTER, "out": POINTER, "rows": I64, "half": I64}, _silu_mul
)

# eʳ for |r| ≤ ½ ln 2, after 1 + r + r² · …: Cephes' expf, https://www.netlib.org/cephes/
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the first has few digits: n · it is exact
_SMALLEST, _LARGEST = -87.0, 88.0


def exp(builder: KernelBuilder, x: Value) -> Value:
    """eˣ, to 2 units in the last place; 0 below −87, as at 88 above that, NaN of NaN."""
    is_nothing = x < _SMALLEST
    x = is_nothing.select(builder.constant(x.type, _SMALLEST), x)
    x = (x > _LARGEST).select(builder.constant(x.type, _LARGEST), x)
    whole = builder.rint(x * log2(e))
    r = builder.fma(whole, builder.constant(x.type, -_LN2_HIGH), x)
    r = builder.fma(whole, builder.constant(x.type, -_LN2_LOW), r)
    polynomial = builder.constant(x.type, _EXP[0])
    for coefficient in _EXP[1:]:
        polynomial = builder.fma(polynomial, r, builder.constant(x.type, coefficient))
    near_one = builder.fma(polynomial, r * r, r) + 1.0
    power = (whole.to(I32) + 127) << 23  # 2ⁿ, written as a float's exponent
    return is_nothing.select(builder.constant(x.type, 0.0), near_one * power.bitcast(x.type))


# --- gather --------------------------------------------------------------------------------------


def _copy_rows(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    def row(at: Value) -> None:
        source = a.table + builder.load(I32, a.rows + at * 4).to(I64) * a.columns * 4
        out = a.out + at * a.columns * 4
        _each(
            builder,
            a.columns,
            lambda place, lanes: builder.store(
                _load(builder, source, place, lanes), out + place * 4
            ),
        )

    _rows(builder, a.count, chunk, row)


COPY_ROWS = Kernel(
    "copy_rows",
    {"table": POINTER, "rows": POINTER, "out": POINTER, "count": I64, "columns": I64},
    _copy_rows,
)


def gather_kernel(format_: Format) -> Kernel:
    """Rows of a packed weight; rows of its other parts are left to those."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        def row(at: Value) -> None:
            wanted = builder.load(I32, a.rows + at * 4).to(I64) - a.first
            with builder.when(wanted >= 0), builder.when(wanted < a.part_rows):
                panel = a.weight + (wanted // PANEL) * a.panel_bytes
                with builder.loop(a.columns) as column:
                    number = load_element(builder, format_, panel, wanted % PANEL, column)
                    builder.store(number, a.out + (at * a.columns + column) * 4)

        _rows(builder, a.count, chunk, row)

    return Kernel(f"gather_{format_.name.lower()}", _GATHER_FIELDS, body)


_GATHER_FIELDS = {
    "weight": POINTER,
    "rows": POINTER,
    "out": POINTER,
    "count": I64,
    "columns": I64,
    "first": I64,  # the matrix's row that is this part's first
    "part_rows": I64,
    "panel_bytes": I64,
}

# --- rope_and_store ------------------------------------------------------------------------------

ROPE_FIELDS = {
    "qkv": POINTER,  # [T, (H + 2K) E]
    "cos_sin": POINTER,  # [T, 2E]
    "q_norm": POINTER,  # [E] or nothing
    "k_norm": POINTER,
    "q": POINTER,  # [T, H, E]
    "keys": POINTER,  # [K, blocks, E, 32]
    "values": POINTER,  # [K, blocks, 32, E]
    "slots": POINTER,  # [T] int32
    "tokens": I64,
    "heads": I64,
    "kv_heads": I64,
    "blocks": I64,
    "eps": F32,
}


def rope_kernel(stored: Plain, width: int, block_size: int) -> Kernel:
    """For heads of one width and a cache of one type."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        _rows(builder, a.tokens, chunk, lambda t: _token(builder, a, t, stored, width, block_size))

    return Kernel(f"rope_and_store_{width}_{stored.name.lower()}", ROPE_FIELDS, body)


def _token(
    builder: KernelBuilder,
    a: SimpleNamespace,
    token: Value,
    stored: Plain,
    width: int,
    block_size: int,
) -> None:
    head_bytes = 4 * width
    row = a.qkv + token * (a.heads + a.kv_heads * 2) * head_bytes
    cos_sin = a.cos_sin + token * (2 * head_bytes)
    with builder.loop(a.heads) as head:
        out = a.q + (token * a.heads + head) * head_bytes
        _rotate(builder, a, row + head * head_bytes, cos_sin, a.q_norm, out, width)
    slot = builder.load(I32, a.slots + token * 4).to(I64)
    with builder.when(slot >= 0):
        block, offset = slot // block_size, slot % block_size
        turned = builder.alloca(head_bytes)
        with builder.loop(a.kv_heads) as head:
            first = (head * a.blocks + block) * (width * block_size)
            key = row + (a.heads + head) * head_bytes
            _rotate(builder, a, key, cos_sin, a.k_norm, turned, width)
            with builder.loop(width) as place:
                number = narrowed(builder, stored, builder.load(F32, turned + place * 4))
                where = first + place * block_size + offset
                builder.store(number, a.keys + where * stored.dtype.itemsize)
            value = row + (a.heads + a.kv_heads + head) * head_bytes
            where = first + offset * width
            _each(
                builder,
                builder.i64(width),
                lambda place, lanes: builder.store(
                    narrowed(builder, stored, _load(builder, value, place, lanes)),
                    a.values + (where + place) * stored.dtype.itemsize,
                ),
            )


def _rotate(
    builder: KernelBuilder,
    a: SimpleNamespace,
    x: Value,
    cos_sin: Value,
    weight: Value,
    out: Value,
    width: int,
) -> None:
    """One head: x · (cos, cos) + swapped(x) · (−sin, sin), normed before where there is a norm."""
    start = builder.variable(x)
    with builder.when(builder.is_not_null(weight)):
        normed = builder.alloca(4 * width)
        norm(builder, x, weight, normed, builder.i64(width), a.eps)
        start.set(normed)
    source, half = start.get(), width // 2
    lanes = gcd(half, LANES)
    with builder.loop(half, 0, lanes) as place:
        low = _load(builder, source, place, lanes)
        high = _load(builder, source, place + half, lanes)
        for this, other, at in ((low, high, place), (high, low, place + half)):
            cos = _load(builder, cos_sin, at, lanes)
            sin = _load(builder, cos_sin, at + width, lanes)
            builder.store(builder.fma(this, cos, other * sin), out + at * 4)


def narrowed(builder: KernelBuilder, stored: Plain, x: Value) -> Value:
    """float32 in a cache's type, to the nearest."""
    if stored.name == "F32":
        return x
    bits = x.bitcast(lanes_of(I32, x.lanes))
    if stored.name == "BF16":
        even = (bits >> 16) & 1
        rounded = (bits + 0x7FFF + even) >> 16
        return _is_none(builder, x).select(bits >> 16 | 0x40, rounded).to(I16)
    if builder.instruction_set.has_half:
        return x.to_half()
    return _half_bits(builder, x, bits)


def _is_none(builder: KernelBuilder, x: Value) -> Value:
    """Whether it is no number."""
    return builder.abs(x).bitcast(lanes_of(I32, x.lanes)) > 0x7F800000


def _half_bits(builder: KernelBuilder, x: Value, bits: Value) -> Value:
    """As the processor would: exponents are 112 apart, what is too large becomes infinity."""
    sign, magnitude = (bits >> 16) & 0x8000, builder.abs(x)
    usual = (magnitude * 2.0**-112).bitcast(bits.type)
    usual = (usual + 0xFFF + ((usual >> 13) & 1)) >> 13
    usual = usual.minimum(0x7C00)
    # Next to ½, floats are as far apart as the smallest halves: the sum rounds to one of them.
    half = builder.constant(x.type, 0.5)
    small = (magnitude + half).bitcast(bits.type) - half.bitcast(bits.type)
    rounded = (magnitude < 2.0**-14).select(small, usual)
    return (_is_none(builder, x).select(builder.constant(bits.type, 0x7E00), rounded) | sign).to(
        I16
    )
