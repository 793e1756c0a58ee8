"""Kernels that work row by row: RMS norm, SwiGLU, gather, embed, RoPE and writes to the KV cache.

The numpy operators (`../operators.py`) say what they compute. It multiplies no matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import e, gcd, log2
from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I16, I32, I64, POINTER, KernelBuilder, Value, vector
from ..packed import PANEL, Format, Plain
from .unpacking import load_element

LANES = 16
ROWS_IN_CHUNK = 4


def _rows(builder: KernelBuilder, chunk: Value, rows: Value) -> AbstractContextManager[Value]:
    """Loop over the rows of a chunk."""
    first = chunk * ROWS_IN_CHUNK
    return builder.loop((first + ROWS_IN_CHUNK).minimum(rows), first)


def _vectorised(builder: KernelBuilder, count: Value, body: Callable[[Value, int], None]) -> None:
    """Emit `body(index, lanes)` for all indices, sixteen at a time and the rest one by one."""
    end = count // LANES * LANES
    with builder.loop(end, 0, LANES) as index:
        body(index, LANES)
    with builder.loop(count, end) as index:
        body(index, 1)


def _load(builder: KernelBuilder, address: Value, index: Value, lanes: int) -> Value:
    return builder.load(vector(F32, lanes), address + index * 4)


# --- rms_norm ------------------------------------------------------------------------------------


def _rms_norm(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    with _rows(builder, chunk, a.rows) as row:
        start = row * a.columns * 4
        _norm_row(builder, a.x + start, a.weight, a.out + start, a.columns, a.eps)


def _norm_row(
    builder: KernelBuilder, x: Value, weight: Value, out: Value, columns: Value, eps: Value
) -> None:
    """out = x / √(mean x² + eps) · weight, for one row."""
    squares = builder.variable(builder.constant(vector(F32, LANES), 0.0))
    rest = builder.variable(builder.constant(F32, 0.0))

    def add_square(column: Value, lanes: int) -> None:
        number, total = _load(builder, x, column, lanes), squares if lanes > 1 else rest
        total.set(builder.fma(number, number, total.get()))

    _vectorised(builder, columns, add_square)
    mean = (squares.get().reduce_add() + rest.get()) / columns.to(F32)
    scale = builder.constant(F32, 1.0) / builder.sqrt(mean + eps)

    def store_scaled(column: Value, lanes: int) -> None:
        scaled = _load(builder, x, column, lanes) * scale.splat(lanes)
        builder.store(scaled * _load(builder, weight, column, lanes), out + column * 4)

    _vectorised(builder, columns, store_scaled)


RMS_NORM = Kernel(
    "rms_norm",
    {"x": POINTER, "weight": POINTER, "out": POINTER, "rows": I64, "columns": I64, "eps": F32},
    _rms_norm,
)

# --- silu_mul ------------------------------------------------------------------------------------


def _silu_mul(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    with _rows(builder, chunk, a.rows) as row:
        gate = a.gate_up + row * a.half * 8
        up, out = gate + a.half * 4, a.out + row * a.half * 4

        def store_product(column: Value, lanes: int) -> None:
            x = _load(builder, gate, column, lanes)
            one = builder.constant(x.type, 1.0)
            silu = x / (one + exp(builder, x * -1.0))
            builder.store(silu * _load(builder, up, column, lanes), out + column * 4)

        _vectorised(builder, a.half, store_product)


SILU_MUL = Kernel(
    "silu_mul", {"gate_up": POINTER, "out": POINTER, "rows": I64, "half": I64}, _silu_mul
)

# Coefficients of eʳ = 1 + r + r² · (…) for |r| ≤ ½ ln 2, highest power first, from Cephes' expf:
# https://www.netlib.org/cephes/
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5)
_LN2_HIGH, _LN2_LOW = (
    0.693359375,
    -2.12194440e-4,
)  # the first has few digits: its product with n is exact
_MIN_X, _MAX_X = -87.0, 88.0


def exp(builder: KernelBuilder, x: Value) -> Value:
    """eˣ, to 2 units in the last place; 0 below −87, e⁸⁸ above 88, NaN of NaN."""
    is_zero = x < _MIN_X
    x = is_zero.select(builder.constant(x.type, _MIN_X), x)
    x = (x > _MAX_X).select(builder.constant(x.type, _MAX_X), x)
    n = builder.rint(x * log2(e))
    r = builder.fma(n, builder.constant(x.type, -_LN2_HIGH), x)
    r = builder.fma(n, builder.constant(x.type, -_LN2_LOW), r)
    polynomial = builder.constant(x.type, _EXP[0])
    for coefficient in _EXP[1:]:
        polynomial = builder.fma(polynomial, r, builder.constant(x.type, coefficient))
    exp_r = builder.fma(polynomial, r * r, r) + 1.0
    power = (n.to(I32) + 127) << 23  # 2ⁿ: n in the exponent of a float
    return is_zero.select(builder.constant(x.type, 0.0), exp_r * power.bitcast(x.type))


# --- gather --------------------------------------------------------------------------------------


def _copy_rows(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    with _rows(builder, chunk, a.count) as row:
        source = a.table + builder.load(I32, a.rows + row * 4).to(I64) * a.columns * 4
        out = a.out + row * a.columns * 4

        def copy(column: Value, lanes: int) -> None:
            builder.store(_load(builder, source, column, lanes), out + column * 4)

        _vectorised(builder, a.columns, copy)


COPY_ROWS = Kernel(
    "copy_rows",
    {"table": POINTER, "rows": POINTER, "out": POINTER, "count": I64, "columns": I64},
    _copy_rows,
)


def embed_kernel(format_: Format) -> Kernel:
    """Copies those rows that lie in one part of a packed weight, as float32."""

    def body(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
        with _rows(builder, chunk, a.count) as row:
            source = builder.load(I32, a.rows + row * 4).to(I64) - a.first
            with builder.when(source >= 0), builder.when(source < a.part_rows):
                panel = a.weight + (source // PANEL) * a.panel_bytes
                with builder.loop(a.columns) as column:
                    number = load_element(builder, format_, panel, source % PANEL, column)
                    builder.store(number, a.out + (row * a.columns + column) * 4)

    return Kernel(f"embed_{format_.name.lower()}", _EMBED_FIELDS, body)


_EMBED_FIELDS = {
    "weight": POINTER,
    "rows": POINTER,
    "out": POINTER,
    "count": I64,
    "columns": I64,
    "first": I64,  # the part's first row, counted in the matrix
    "part_rows": I64,
    "panel_bytes": I64,
}

# --- rope_and_store ------------------------------------------------------------------------------

ROPE_FIELDS = {
    "qkv": POINTER,  # [T, (H + 2K) E]
    "cos_sin": POINTER,  # [T, 2E]
    "q_norm": POINTER,  # [E] or null
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
        with _rows(builder, chunk, a.tokens) as token:
            head_bytes = 4 * width
            row = a.qkv + token * (a.heads + a.kv_heads * 2) * head_bytes
            cos_sin = a.cos_sin + token * (2 * head_bytes)
            with builder.loop(a.heads) as head:
                out = a.q + (token * a.heads + head) * head_bytes
                _rotate(builder, a, row + head * head_bytes, cos_sin, a.q_norm, out, width)
            slot = builder.load(I32, a.slots + token * 4).to(I64)
            with builder.when(slot >= 0):
                block, offset = slot // block_size, slot % block_size
                rotated = builder.alloca(head_bytes)
                with builder.loop(a.kv_heads) as head:
                    first = (head * a.blocks + block) * (width * block_size)
                    key = row + (a.heads + head) * head_bytes
                    _rotate(builder, a, key, cos_sin, a.k_norm, rotated, width)
                    with builder.loop(width) as dimension:
                        number = round_to(
                            builder, stored, builder.load(F32, rotated + dimension * 4)
                        )
                        place = first + dimension * block_size + offset
                        builder.store(number, a.keys + place * stored.dtype.itemsize)
                    value = row + (a.heads + a.kv_heads + head) * head_bytes
                    start = first + offset * width

                    def store_value(dimension: Value, lanes: int) -> None:
                        number = round_to(builder, stored, _load(builder, value, dimension, lanes))
                        builder.store(
                            number, a.values + (start + dimension) * stored.dtype.itemsize
                        )

                    _vectorised(builder, builder.i64(width), store_value)

    return Kernel(f"rope_and_store_{width}_{stored.name.lower()}", ROPE_FIELDS, body)


def _rotate(
    builder: KernelBuilder,
    a: SimpleNamespace,
    x: Value,
    cos_sin: Value,
    weight: Value,
    out: Value,
    width: int,
) -> None:
    """out = x · (cos, cos) + (x₂, x₁) · (−sin, sin), for one head and its two halves; x is normed
    before where there is a weight."""
    start = builder.variable(x)
    with builder.when(builder.is_not_null(weight)):
        normed = builder.alloca(4 * width)
        _norm_row(builder, x, weight, normed, builder.i64(width), a.eps)
        start.set(normed)
    source, half = start.get(), width // 2
    lanes = gcd(half, LANES)
    with builder.loop(half, 0, lanes) as dimension:
        low = _load(builder, source, dimension, lanes)
        high = _load(builder, source, dimension + half, lanes)
        for this, other, at in ((low, high, dimension), (high, low, dimension + half)):
            cos = _load(builder, cos_sin, at, lanes)
            sin = _load(builder, cos_sin, at + width, lanes)
            builder.store(builder.fma(this, cos, other * sin), out + at * 4)


def round_to(builder: KernelBuilder, stored: Plain, x: Value) -> Value:
    """Round float32 to a cache's type: float32, or the bits of a 16-bit float."""
    if stored.name == "F32":
        return x
    bits = x.bitcast(vector(I32, x.lanes))
    if stored.name == "BF16":
        even = (bits >> 16) & 1
        rounded = (bits + 0x7FFF + even) >> 16
        return _is_nan(builder, x).select(bits >> 16 | 0x40, rounded).to(I16)
    if builder.instruction_set.has_half:
        return x.to_half()
    return _half_bits(builder, x, bits)


def _is_nan(builder: KernelBuilder, x: Value) -> Value:
    return builder.abs(x).bitcast(vector(I32, x.lanes)) > 0x7F800000


def _half_bits(builder: KernelBuilder, x: Value, bits: Value) -> Value:
    """Round float32 to float16 as processors do; exponents are 112 apart, overflow is infinity."""
    sign, magnitude = (bits >> 16) & 0x8000, builder.abs(x)
    normal = (magnitude * 2.0**-112).bitcast(bits.type)
    normal = (normal + 0xFFF + ((normal >> 13) & 1)) >> 13
    normal = normal.minimum(0x7C00)
    # Next to ½, floats are as far apart as subnormal halves: the sum rounds to one of them.
    half = builder.constant(x.type, 0.5)
    subnormal = (magnitude + half).bitcast(bits.type) - half.bitcast(bits.type)
    rounded = (magnitude < 2.0**-14).select(subnormal, normal)
    is_nan = _is_nan(builder, x)
    return (is_nan.select(builder.constant(bits.type, 0x7E00), rounded) | sign).to(I16)
