"""Every family of PTX instructions compared with numpy, on ordinary numbers and edge cases.

Integers are compared with Python's own, which have no width; floats bit by bit where PTX rounds
exactly, NaN being equal to NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from emulation.probe import BF16, F16, F32, F64, by_name, floats, integers, result, results

Array: TypeAlias = NDArray[Any]
INTEGER_TYPES = ("u16", "s16", "u32", "s32", "u64", "s64")
ALL_BITS = 0xFFFFFFFF


@pytest.fixture(autouse=True)
def _ignore_numpy_warnings() -> Any:
    with np.errstate(all="ignore"):
        yield


def dtype_of(type: str) -> np.dtype[Any]:
    kinds = {"u": "uint", "s": "int", "b": "uint", "f": "float"}
    return np.dtype(f"{kinds[type[0]]}{type[1:]}")


def exactly(function: Callable[..., int], type: Any, *operands: Array) -> Array:
    """Wrap Python integers to the width of the type."""
    dtype = np.dtype(type)
    mask = (1 << 8 * dtype.itemsize) - 1
    values = [function(*map(int, row)) & mask for row in zip(*operands, strict=True)]
    return np.array(values, f"u{dtype.itemsize}").view(dtype)


def same(found: Array, expected: Array) -> None:
    """Compare bit by bit, with all NaNs equal."""
    nan = np.isnan(expected.astype(np.float64))
    assert_array_equal(np.isnan(found.astype(np.float64)), nan)
    bits = f"u{found.dtype.itemsize}"
    assert_array_equal(found[~nan].view(bits), expected[~nan].view(bits))


def divided(a: int, b: int) -> int:
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


# --- integer arithmetic ---------------------------------------------------------------------------


@pytest.mark.parametrize("type", INTEGER_TYPES)
def test_integer_arithmetic_wraps(type: str) -> None:
    a, b, c = (integers(dtype_of(type), seed) for seed in range(3))
    bits = int(type[1:])
    expected: dict[str, Callable[..., int]] = {
        f"add.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: a + b,
        f"sub.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: a - b,
        f"mul.lo.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: a * b,
        f"mul.hi.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: a * b >> bits,
        f"mad.lo.{type} {{0}}, {{1}}, {{2}}, {{3}};": lambda a, b, c: a * b + c,
        f"mad.hi.{type} {{0}}, {{1}}, {{2}}, {{3}};": lambda a, b, c: (a * b >> bits) + c,
        f"sad.{type} {{0}}, {{1}}, {{2}}, {{3}};": lambda a, b, c: abs(a - b) + c,
        f"div.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: divided(a, b),
        f"rem.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: a - divided(a, b) * b if b else a,
        f"min.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: min(a, b),
        f"max.{type} {{0}}, {{1}}, {{2}};": lambda a, b, c: max(a, b),
    }
    for found, function in zip(results(expected, a.dtype, a, b, c), expected.values(), strict=True):
        assert_array_equal(found, exactly(function, a.dtype, a, b, c))


@pytest.mark.parametrize("type", ["s16", "s32", "s64"])
def test_signs(type: str) -> None:
    a = integers(dtype_of(type))
    found = by_name(
        {"abs": f"abs.{type} {{0}}, {{1}};", "neg": f"neg.{type} {{0}}, {{1}};"}, a.dtype, a
    )
    assert_array_equal(found["abs"], exactly(abs, a.dtype, a))
    assert_array_equal(found["neg"], exactly(lambda a: -a, a.dtype, a))


@pytest.mark.parametrize(
    ("type", "wide"), [("u16", "u32"), ("s16", "s32"), ("u32", "u64"), ("s32", "s64")]
)
def test_wide_products_keep_every_bit(type: str, wide: str) -> None:
    a, b = (integers(dtype_of(type), seed) for seed in range(2))
    c = integers(dtype_of(wide), 2)[: a.size]
    codes = [
        f"mul.wide.{type} {{0}}, {{1}}, {{2}};",
        f"mad.wide.{type} {{0}}, {{1}}, {{2}}, {{3}};",
    ]
    product, total = results(codes, c.dtype, a, b, c)
    assert_array_equal(product, exactly(lambda a, b, c: a * b, c.dtype, a, b, c))
    assert_array_equal(total, exactly(lambda a, b, c: a * b + c, c.dtype, a, b, c))


def test_saturating_sums() -> None:
    a, b = (integers(np.int32, seed) for seed in range(2))

    def clamp(x: int) -> int:
        return max(-(2**31), min(2**31 - 1, x))

    added, taken = results(
        ["add.sat.s32 {0}, {1}, {2};", "sub.sat.s32 {0}, {1}, {2};"], np.int32, a, b
    )
    assert_array_equal(added, exactly(lambda a, b: clamp(a + b), np.int32, a, b))
    assert_array_equal(taken, exactly(lambda a, b: clamp(a - b), np.int32, a, b))


def test_carries_go_from_word_to_word() -> None:
    a, b = (integers(np.uint64, seed) for seed in range(2))
    split = "mov.b64 {%r1, %r2}, %l1; mov.b64 {%r3, %r4}, %l2; "
    join = " mov.b64 %l0, {%r5, %r6};"
    codes = {
        "add": "add.cc.u32 %r5, %r1, %r3; addc.u32 %r6, %r2, %r4;",
        "sub": "sub.cc.u32 %r5, %r1, %r3; subc.u32 %r6, %r2, %r4;",
        "mad": "mad.lo.cc.u32 %r5, %r1, %r3, %r4; madc.hi.u32 %r6, %r1, %r3, 0;",
    }
    codes = {name: split + code + join for name, code in codes.items()}
    found = by_name(codes, np.uint64, a, b)
    assert_array_equal(found["add"], a + b)
    assert_array_equal(found["sub"], a - b)
    low = ALL_BITS
    expected = exactly(lambda a, b: (a & low) * (b & low) + (b >> 32), np.uint64, a, b)
    assert_array_equal(found["mad"], expected)


@pytest.mark.parametrize(
    ("a_type", "b_type"), [("u32", "u32"), ("s32", "s32"), ("u32", "s32"), ("s32", "u32")]
)
def test_dot_products_of_bytes(a_type: str, b_type: str) -> None:
    a, b, c = (integers(np.int32, seed) for seed in range(3))
    bytes_of = {"u32": np.uint8, "s32": np.int8}
    left = a.view(bytes_of[a_type]).reshape(-1, 4).astype(np.int64)
    right = b.view(bytes_of[b_type]).reshape(-1, 4).astype(np.int64)
    found = result(f"dp4a.{a_type}.{b_type} {{0}}, {{1}}, {{2}}, {{3}};", np.int32, a, b, c)
    assert_array_equal(found, ((left * right).sum(1) + c).astype(np.int32))


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["b16", "b32", "b64"])
def test_bitwise_operations(type: str) -> None:
    a, b = (integers(dtype_of(type), seed) for seed in range(2))
    codes = {name: f"{name}.{type} {{0}}, {{1}}, {{2}};" for name in ("and", "or", "xor")}
    codes |= {name: f"{name}.{type} {{0}}, {{1}};" for name in ("not", "cnot")}
    found = by_name(codes, a.dtype, a, b)
    expected = {
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "not": ~a,
        "cnot": (a == 0).astype(a.dtype),
    }
    for name, values in expected.items():
        assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("type", ["b16", "u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64"])
def test_shifts_by_the_width_or_more_leave_zeros_or_the_sign(type: str) -> None:
    a, counts = integers(dtype_of(type)), integers(np.uint32, 1)
    names = ["shr"] + (["shl"] if type[0] == "b" else [])
    found = by_name({n: f"{n}.{type} {{0}}, {{1}}, {{2}};" for n in names}, a.dtype, a, counts)
    width = int(type[1:])
    right = exactly(lambda a, n: a >> min(n, width), a.dtype, a, counts)
    assert_array_equal(found["shr"], right)
    if "shl" in found:
        left = exactly(lambda a, n: a << n if n < width else 0, a.dtype, a, counts)
        assert_array_equal(found["shl"], left)


def test_funnel_shifts() -> None:
    low, high, counts = (integers(np.uint32, seed) for seed in range(3))
    names = [f"{direction}.{mode}" for direction in "lr" for mode in ("wrap", "clamp")]
    found = by_name(
        {n: f"shf.{n}.b32 {{0}}, {{1}}, {{2}}, {{3}};" for n in names}, np.uint32, low, high, counts
    )
    for name, values in found.items():
        count = (lambda n: n & 31) if "wrap" in name else (lambda n: min(n, 32))
        if name[0] == "l":
            expected = lambda a, b, n, count=count: ((b << 32 | a) << count(n)) >> 32  # noqa: E731
        else:
            expected = lambda a, b, n, count=count: (b << 32 | a) >> count(n)  # noqa: E731
        assert_array_equal(values, exactly(expected, np.uint32, low, high, counts), err_msg=name)


def test_three_input_logic_for_many_tables() -> None:
    a, b, c = (integers(np.uint32, seed) for seed in range(3))
    tables = [0x80, 0xFE, 0x96, 0x1B, 0xE8, 0x01, 0xCA, 0x6A]
    codes = [f"lop3.b32 {{0}}, {{1}}, {{2}}, {{3}}, {table};" for table in tables]
    for table, found in zip(tables, results(codes, np.uint32, a, b, c), strict=True):
        expected = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                terms = [x if row >> (2 - n) & 1 else ~x for n, x in enumerate((a, b, c))]
                expected |= terms[0] & terms[1] & terms[2]
        assert_array_equal(found, expected, err_msg=hex(table))


def test_logic_with_a_predicate() -> None:
    a, b, c = (integers(np.uint32, seed) & 3 for seed in range(3))
    code = "setp.eq.u32 %q, %r1, 0; lop3.or.b32 %r5|%p0, %r1, %r2, %r3, 0x80, %q;"
    assert_array_equal(result(code, np.bool_, a, b, c), ((a & b & c) != 0) | (a == 0))


def permuted(a: int, b: int, selector: int) -> int:
    data, out = (b << 32 | a).to_bytes(8, "little"), 0
    for i in range(4):
        choice = selector >> 4 * i & 15
        byte = data[choice & 7]
        out |= (byte if choice < 8 else 255 * (byte >> 7)) << 8 * i
    return out


def test_byte_permutations() -> None:
    a, b, c = (integers(np.uint32, seed) for seed in range(3))
    modes = ("", ".f4e", ".b4e", ".rc8", ".rc16", ".ecl", ".ecr")
    codes = {mode: f"prmt.b32{mode} {{0}}, {{1}}, {{2}}, {{3}};" for mode in modes}
    found = by_name(codes, np.uint32, a, b, c)
    assert_array_equal(found[""], exactly(permuted, np.uint32, a, b, c))
    data = np.concatenate([a[:, None].view(np.uint8), b[:, None].view(np.uint8)], 1)
    rows, low = np.arange(a.size)[:, None], (c & 3).astype(int)[:, None]
    places = np.arange(4)
    choices = {
        ".f4e": low + places,
        ".b4e": (low - places) % 8,
        ".rc8": low + 0 * places,
        ".rc16": low % 2 * 2 + places % 2,
        ".ecl": np.maximum(low, places),
        ".ecr": np.minimum(low, places),
    }
    for name, choice in choices.items():
        expected = data[rows, choice].copy().view(np.uint32)[:, 0]
        assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("type", ["u32", "s32", "u64", "s64"])
def test_fields(type: str) -> None:
    width = int(type[1:])
    a, b = integers(dtype_of(type)), integers(dtype_of(type), 1)
    first, length = integers(np.uint32, 2) % 80, integers(np.uint32, 3) % 80

    def extracted(a: int, b: int, first: int, length: int) -> int:
        if length == 0:
            return 0
        sign = a >> (width - 1) & 1 if type[0] == "s" else 0
        unsigned = (a & ((1 << width) - 1)) | (sign * (((1 << 400) - 1) << width))
        value = unsigned >> first & ((1 << length) - 1)
        top = unsigned >> min(first + length - 1, width - 1) & 1
        return value - (1 << length) if type[0] == "s" and top else value

    def inserted(a: int, b: int, first: int, length: int) -> int:
        mask = ((1 << length) - 1) << first & ((1 << width) - 1)
        return (b & ~mask) | ((a << first) & mask)

    codes = {
        "bfe": f"bfe.{type} {{0}}, {{1}}, {{3}}, {{4}};",
        "bfi": f"bfi.b{width} {{0}}, {{1}}, {{2}}, {{3}}, {{4}};",
    }
    found = by_name(codes, a.dtype, a, b, first, length)
    assert_array_equal(found["bfe"], exactly(extracted, a.dtype, a, b, first, length))
    assert_array_equal(found["bfi"], exactly(inserted, a.dtype, a, b, first, length))


@pytest.mark.parametrize("type", ["u32", "s32", "u64", "s64"])
def test_counting_bits(type: str) -> None:
    width, a = int(type[1:]), integers(dtype_of(type))
    codes = {"clz": f"clz.b{width} {{0}}, {{1}};", "popc": f"popc.b{width} {{0}}, {{1}};"}
    codes |= {
        "bfind": f"bfind.{type} {{0}}, {{1}};",
        "shift": f"bfind.shiftamt.{type} {{0}}, {{1}};",
    }
    found = by_name(codes, np.uint32, a)

    def highest(a: int) -> int:
        return (~a if a < 0 else a).bit_length() - 1

    unsigned = a.view(f"u{width // 8}")
    assert_array_equal(found["clz"], exactly(lambda a: width - a.bit_length(), np.uint32, unsigned))
    assert_array_equal(found["popc"], exactly(lambda a: bin(a).count("1"), np.uint32, unsigned))
    assert_array_equal(found["bfind"], exactly(highest, np.uint32, a))
    shift = exactly(lambda a: width - 1 - highest(a) if highest(a) >= 0 else -1, np.uint32, a)
    assert_array_equal(found["shift"], shift)
    reverse = exactly(lambda a: int(f"{a:0{width}b}"[::-1], 2), unsigned.dtype, unsigned)
    assert_array_equal(result(f"brev.b{width} {{0}}, {{1}};", unsigned.dtype, unsigned), reverse)


# --- float arithmetic -----------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["f32", "f64"])
def test_float_arithmetic_rounds_to_nearest(type: str) -> None:
    a, b = (floats(dtype_of(type), seed) for seed in range(2))
    expected = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "div.rn": a / b,
        "sqrt.rn": np.sqrt(a),
        "rcp.rn": 1 / a,
    }
    expected |= {"neg": -a, "abs": np.abs(a), "copysign": np.copysign(b, a)}
    unary = ("sqrt.rn", "rcp.rn", "neg", "abs")
    codes = {n: f"{n}.{type} {{0}}, {{1}}" + (";" if n in unary else ", {2};") for n in expected}
    for name, found in by_name(codes, a.dtype, a, b).items():
        same(found, expected[name].astype(a.dtype))


def test_multiply_add_rounds_once() -> None:
    a, b = (floats(F32, seed) for seed in range(2))
    c = (-a.astype(F64) * b).astype(F32)  # what remains is the product's rounding error
    exact = (a.astype(F64) * b + c).astype(F32)
    same(result("fma.rn.f32 {0}, {1}, {2}, {3};", F32, a, b, c), exact)
    split = result("mul.f32 %f5, {1}, {2}; add.f32 {0}, %f5, {3};", F32, a, b, c)
    assert_array_equal(split[np.isfinite(exact)], np.zeros(np.isfinite(exact).sum(), F32))


@pytest.mark.parametrize(("mode", "way"), [("rz", 0), ("rm", -1), ("rp", 1)])
def test_directed_rounding(mode: str, way: int) -> None:
    """The result is the neighbour of the exact value in that direction."""
    draw = np.random.default_rng(1)
    a, b = (draw.uniform(-9, 9, 300).astype(F32) for _ in range(2))
    wide = {"add": a.astype(F64) + b, "mul": a.astype(F64) * b, "div": a.astype(F64) / b}
    found = by_name({n: f"{n}.{mode}.f32 {{0}}, {{1}}, {{2}};" for n in wide}, F32, a, b)
    for name, exact in wide.items():
        goal = (
            np.where(exact > 0, -np.inf, np.inf) if way == 0 else np.full_like(exact, way * np.inf)
        )
        near = exact.astype(F32)
        wrong = (
            (near > exact)
            if way == -1
            else (near < exact)
            if way == 1
            else np.abs(near) > np.abs(exact)
        )
        same(found[name], np.where(wrong, np.nextafter(near, goal.astype(F32)), near))


def test_flush_to_zero_and_saturation() -> None:
    a, b = floats(F32), np.full(515, 0.5, F32)
    tiny = np.abs(a) < 2.0**-126
    flushed = np.where(tiny, np.copysign(np.float32(0), a), a)
    codes = [
        "mul.ftz.f32 {0}, {1}, {2};",
        "add.sat.f32 {0}, {1}, {2};",
        "cvt.ftz.f32.f32 {0}, {1};",
    ]
    product, total, converted = results(codes, F32, a, b)
    same(
        product,
        np.where(np.abs(flushed * b) < 2.0**-126, np.copysign(np.float32(0), a), flushed * b),
    )
    same(total, np.nan_to_num(np.clip(a + b, 0, 1), nan=0.0))
    same(converted, flushed)


@pytest.mark.parametrize("type", ["f32", "f64"])
def test_min_and_max_ignore_nan(type: str) -> None:
    a, b = (floats(dtype_of(type), seed) for seed in range(2))
    codes = {name: f"{name}.{type} {{0}}, {{1}}, {{2}};" for name in ("min", "max")}
    found = by_name(codes, a.dtype, a, b)
    assert_array_equal(found["min"], np.fmin(a, b))
    assert_array_equal(found["max"], np.fmax(a, b))
    zeros = np.array([0.0, -0.0], a.dtype)
    low, high = results(codes.values(), a.dtype, zeros, zeros[::-1].copy())
    assert np.signbit(low).all()
    assert not np.signbit(high).any()
    if type == "f32":
        same(result("max.NaN.f32 {0}, {1}, {2};", F32, a, b), np.maximum(a, b))


def test_approximate_functions() -> None:
    a = np.abs(floats(F32))
    a = a[np.isfinite(a) & (a > 1e-30) & (a < 80)]
    wide = a.astype(F64)
    expected = {
        "rcp.approx": 1 / wide,
        "sqrt.approx": np.sqrt(wide),
        "rsqrt.approx": wide**-0.5,
        "ex2.approx": 2**wide,
        "lg2.approx": np.log2(wide),
        "sin.approx": np.sin(wide),
        "cos.approx": np.cos(wide),
        "tanh.approx": np.tanh(wide),
    }
    for name, found in by_name({n: f"{n}.f32 {{0}}, {{1}};" for n in expected}, F32, a).items():
        assert_allclose(found, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
    assert_allclose(result("ex2.approx.ftz.f32 {0}, {1};", F32, a), 2**wide, rtol=1e-6)
    for name in ("div.approx", "div.full", "div.rn"):
        assert_array_equal(result(f"{name}.f32 {{0}}, {{1}}, {{1}};", F32, a), np.ones_like(a))


def test_properties_of_floats() -> None:
    a = floats(F32)
    is_small = np.abs(a) < 2.0**-126
    tests = {
        "finite": np.isfinite(a),
        "infinite": np.isinf(a),
        "number": ~np.isnan(a),
        "notanumber": np.isnan(a),
        "normal": np.isfinite(a) & ~is_small,
        "subnormal": is_small & (a != 0),
    }
    found = by_name({name: f"testp.{name}.f32 {{0}}, {{1}};" for name in tests}, np.bool_, a)
    for name, expected in tests.items():
        assert_array_equal(found[name], expected, err_msg=name)


# --- halves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "dtype"), [("f16", F16), ("bf16", BF16)])
def test_half_arithmetic_rounds_once(type: str, dtype: np.dtype[Any]) -> None:
    a, b, c = (floats(dtype, seed) for seed in range(3))
    wide = [x.astype(F64) for x in (a, b, c)]
    x, y, z = wide
    expected = {
        "add": x + y,
        "sub": x - y,
        "mul": x * y,
        "min": np.fmin(x, y),
        "max": np.fmax(x, y),
    }
    codes = {name: f"{name}.{type} {{0}}, {{1}}, {{2}};" for name in expected}
    codes["fma.rn"], expected["fma.rn"] = f"fma.rn.{type} {{0}}, {{1}}, {{2}}, {{3}};", x * y + z
    for name, found in by_name(codes, dtype, a, b, c).items():
        same(found, expected[name].astype(np.longdouble).astype(F64).astype(dtype))


@pytest.mark.parametrize(("type", "dtype"), [("f16", F16), ("bf16", BF16)])
def test_pairs_of_halves_are_two_halves(type: str, dtype: np.dtype[Any]) -> None:
    a, b, c = (floats(dtype, seed, 501) for seed in range(3))
    pairs = [x.view(np.uint32) for x in (a, b, c)]
    for name, operands in {
        "add": "{1}, {2}",
        "mul": "{1}, {2}",
        "max": "{1}, {2}",
        "fma.rn": "{1}, {2}, {3}",
        "neg": "{1}",
    }.items():
        single = result(f"{name}.{type} {{0}}, {operands};", dtype, a, b, c)
        double = result(f"{name}.{type}x2 {{0}}, {operands};", np.uint32, *pairs)
        same(double.view(dtype), single)


def test_a_far_smaller_term_breaks_a_tie() -> None:
    """1.5 (1 + 2^-7) lies half way between two bf16; 2^-100 more or less decides."""
    a, b = np.full(2, 1.5, BF16), np.full(2, 1 + 2.0**-7, BF16)
    c = np.array([2.0**-100, -(2.0**-100)], BF16)
    found = result("fma.rn.bf16 {0}, {1}, {2}, {3};", BF16, a, b, c)
    assert_array_equal(found.astype(F64), [1.5 + 2.0**-6, 1.5 + 2.0**-7])


# --- comparison and selection ---------------------------------------------------------------------

ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@pytest.mark.parametrize("type", ["f32", "f64", "f16", "bf16"])
def test_unordered_comparisons_are_true_for_nan(type: str) -> None:
    dtype = {"f16": F16, "bf16": BF16}.get(type) or dtype_of(type)
    a, b = (floats(dtype, seed) for seed in range(2))
    b[::3] = a[::3]
    nan = np.isnan(a.astype(F64)) | np.isnan(b.astype(F64))
    codes = {n: f"setp.{n}.{type} {{0}}, {{1}}, {{2}};" for o in ORDERED for n in (o, o + "u")}
    codes |= {n: f"setp.{n}.{type} {{0}}, {{1}}, {{2}};" for n in ("num", "nan")}
    found = by_name(codes, np.bool_, a, b)
    for name, compare in ORDERED.items():
        assert_array_equal(found[name], compare(a, b) & ~nan, err_msg=name)
        assert_array_equal(found[name + "u"], compare(a, b) | nan, err_msg=name)
    assert_array_equal(found["nan"], nan)
    assert_array_equal(found["num"], ~nan)


@pytest.mark.parametrize("type", INTEGER_TYPES)
def test_integer_comparisons(type: str) -> None:
    a, b = (integers(dtype_of(type), seed) for seed in range(2))
    b[::3] = a[::3]
    codes = {name: f"setp.{name}.{type} {{0}}, {{1}}, {{2}};" for name in ORDERED}
    for name, found in by_name(codes, np.bool_, a, b).items():
        assert_array_equal(found, ORDERED[name](a, b), err_msg=name)


def test_a_comparison_with_two_predicates_and_a_third() -> None:
    a, b, c = integers(np.int32), integers(np.int32, 1), integers(np.int32, 2) > 9
    third = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    for name, combine in third.items():
        yes = result(f"setp.lt.{name}.s32 {{0}}|%q, {{1}}, {{2}}, {{3}};", np.bool_, a, b, c)
        no = result(f"setp.lt.{name}.s32 %q|{{0}}, {{1}}, {{2}}, !{{3}};", np.bool_, a, b, c)
        assert_array_equal(yes, combine(a < b, c))
        assert_array_equal(no, combine(~(a < b), ~c))


def test_set_and_select() -> None:
    a, b, c = floats(F32), floats(F32, 1), floats(F32, 2)
    chosen = result("setp.lt.f32 %q, {1}, {2}; selp.f32 {0}, {1}, {3}, %q;", F32, a, b, c)
    same(chosen, np.where(a < b, a, c))
    assert_array_equal(
        result("set.lt.u32.f32 {0}, {1}, {2};", np.uint32, a, b), np.where(a < b, ALL_BITS, 0)
    )
    assert_array_equal(result("set.ltu.f32.f32 {0}, {1}, {2};", F32, a, b), (~(a >= b)).astype(F32))
    same(result("slct.f32.f32 {0}, {1}, {2}, {3};", F32, a, b, c), np.where(c >= 0, a, b))
    signs = integers(np.int32)[: a.size]
    same(result("slct.f32.s32 {0}, {1}, {2}, {3};", F32, a, b, signs), np.where(signs >= 0, a, b))


def test_predicates() -> None:
    a, b = integers(np.int32) % 2 == 0, integers(np.int32, 1) % 2 == 0
    codes = {n: f"{n}.pred {{0}}, {{1}}, {{2}};" for n in ("and", "or", "xor")} | {
        "not": "not.pred {0}, {1};"
    }
    found = by_name(codes, np.bool_, a, b)
    for name, expected in {"and": a & b, "or": a | b, "xor": a ^ b, "not": ~a}.items():
        assert_array_equal(found[name], expected)
    guarded = result(
        "mov.u32 {0}, 5; @{1} mov.u32 {0}, 6; @!{2} add.u32 {0}, {0}, 10;", np.uint32, a, b
    )
    assert_array_equal(guarded, np.where(a, 6, 5) + np.where(b, 0, 10))


# --- moves and conversions ------------------------------------------------------------------------


def test_packing_and_unpacking() -> None:
    a = integers(np.uint64)
    code = (
        "mov.b64 {%r1, %r2}, {1}; mov.b32 {%h1, %h2}, %r1; "
        "mov.b32 %r3, {%h2, %h1}; mov.b64 {0}, {%r2, %r3};"
    )
    halves = a.view(np.uint16).reshape(-1, 4)
    assert_array_equal(
        result(code, np.uint64, a), halves[:, [2, 3, 1, 0]].copy().view(np.uint64)[:, 0]
    )
    code = "mov.b64 {%h1, %h2, %h3, %h4}, {1}; mov.b64 {0}, {%h4, %h3, %h2, %h1};"
    assert_array_equal(result(code, np.uint64, a), halves[:, ::-1].copy().view(np.uint64)[:, 0])


def test_bits_of_floats_move_unchanged() -> None:
    a = floats(F32)
    assert_array_equal(result("mov.b32 {0}, {1};", np.uint32, a), a.view(np.uint32))
    same(result("mov.b32 %r5, {1}; mov.b32 {0}, %r5;", F32, a), a)
    same(result("mov.f32 {0}, 0f3FC00000;", F32, a), np.full_like(a, 1.5))
    b = floats(F64)
    assert_array_equal(result("mov.b64 {0}, {1};", np.uint64, b), b.view(np.uint64))
    same(result("mov.f64 {0}, 0d3FF8000000000000;", F64, b), np.full_like(b, 1.5))


@pytest.mark.parametrize("source", INTEGER_TYPES)
def test_integers_change_their_width(source: str) -> None:
    a = integers(dtype_of(source))
    for to in INTEGER_TYPES:
        found, clamped = results(
            [f"cvt.{to}.{source} {{0}}, {{1}};", f"cvt.sat.{to}.{source} {{0}}, {{1}};"],
            dtype_of(to),
            a,
        )
        assert_array_equal(found, a.astype(dtype_of(to)))
        limits = np.iinfo(dtype_of(to))
        expected = exactly(
            lambda a, limits=limits: max(limits.min, min(limits.max, a)), dtype_of(to), a
        )
        assert_array_equal(clamped, expected, err_msg=f"{to} {source}")


def test_bytes_are_the_low_bits_of_their_registers() -> None:
    a = integers(np.int32)
    codes = [
        "cvt.s32.s8 {0}, {1};",
        "cvt.u32.u8 {0}, {1};",
        "cvt.s8.s32 {0}, {1};",
        "cvt.u8.u32 {0}, {1};",
    ]
    signed, unsigned, to_signed, to_unsigned = results(codes, np.int32, a)
    assert_array_equal(signed, a.astype(np.int8))
    assert_array_equal(unsigned, a.astype(np.uint8))
    assert_array_equal(to_signed, a.astype(np.int8))
    assert_array_equal(to_unsigned, a.astype(np.uint8))


@pytest.mark.parametrize("source", ["f32", "f64", "f16"])
@pytest.mark.parametrize("to", ["s32", "u32", "s64", "u64", "s16"])
def test_floats_become_integers_by_saturation(to: str, source: str) -> None:
    a = floats({"f16": F16}.get(source) or dtype_of(source))
    limits = np.iinfo(dtype_of(to))
    nan = 1 << (limits.bits - 1) if source == "f64" or limits.bits == 64 else 0
    ways = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    found = by_name({n: f"cvt.{n}.{to}.{source} {{0}}, {{1}};" for n in ways}, dtype_of(to), a)
    for name, way in ways.items():
        values = []
        for x in way(a.astype(F64)):
            whole = (
                nan
                if np.isnan(x)
                else limits.max
                if x >= limits.max
                else limits.min
                if x <= limits.min
                else int(x)
            )
            values.append(whole & ((1 << limits.bits) - 1))
        expected = np.array(values, f"u{limits.bits // 8}").view(dtype_of(to))
        assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("source", INTEGER_TYPES)
def test_integers_become_floats(source: str) -> None:
    a = integers(dtype_of(source))
    for to in ("f32", "f64"):
        found = by_name(
            {m: f"cvt.{m}.{to}.{source} {{0}}, {{1}};" for m in ("rn", "rz", "rm", "rp")},
            dtype_of(to),
            a,
        )
        near = a.astype(dtype_of(to))
        same(found["rn"], near)
        error = [int(x) - int(y) for x, y in zip(a, near, strict=True)]
        below, above = np.array(error) < 0, np.array(error) > 0  # below: the exact value is below
        down = np.where(below, np.nextafter(near, near.dtype.type(-np.inf)), near)
        up = np.where(above, np.nextafter(near, near.dtype.type(np.inf)), near)
        same(found["rm"], down)
        same(found["rp"], up)
        same(found["rz"], np.where(near > 0, down, up))
    same(result(f"cvt.rn.f16.{source} {{0}}, {{1}};", F16, a), a.astype(F64).astype(F16))


def test_floats_change_their_format() -> None:
    a, b = floats(F32), floats(F64)
    same(result("cvt.rn.f16.f32 {0}, {1};", F16, a), a.astype(F16))
    same(result("cvt.rn.bf16.f32 {0}, {1};", BF16, a), a.astype(BF16))
    same(result("cvt.f64.f32 {0}, {1};", F64, a), a.astype(F64))
    same(result("cvt.rn.f32.f64 {0}, {1};", F32, b), b.astype(F32))
    same(result("cvt.rn.f16.f64 {0}, {1};", F16, b), b.astype(F16))
    every = np.arange(0, 65536, 67, dtype=np.uint16)
    same(result("cvt.f32.f16 {0}, {1};", F32, every.view(F16)), every.view(F16).astype(F32))
    same(result("cvt.f32.bf16 {0}, {1};", F32, every.view(BF16)), every.view(BF16).astype(F32))
    for name, way in {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.items():
        same(result(f"cvt.{name}.f32.f32 {{0}}, {{1}};", F32, a), way(a))
    same(
        result("cvt.sat.f32.f32 {0}, {1};", F32, a),
        np.nan_to_num(np.clip(a, 0, 1), nan=0.0) + np.float32(0),
    )


@pytest.mark.parametrize(("type", "dtype"), [("f16", F16), ("bf16", BF16)])
def test_two_floats_become_a_pair_the_first_above(type: str, dtype: np.dtype[Any]) -> None:
    a, b = (floats(F32, seed) for seed in range(2))
    found = result(f"cvt.rn.{type}x2.f32 {{0}}, {{1}}, {{2}};", np.uint32, a, b)
    halves = found.view(dtype).reshape(-1, 2)
    same(halves[:, 1].copy(), a.astype(dtype))
    same(halves[:, 0].copy(), b.astype(dtype))
    relu = result(f"cvt.rn.relu.{type}x2.f32 {{0}}, {{1}}, {{2}};", np.uint32, a, b).view(dtype)
    same(relu.reshape(-1, 2)[:, 1].copy(), np.maximum(a, np.float32(0)).astype(dtype))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_halves_by_truncation(dtype: np.dtype[Any]) -> None:
    a = np.random.default_rng(0).uniform(-9, 9, 400).astype(F32)
    type = {F16: "f16", BF16: "bf16"}[dtype]
    found = result(f"cvt.rz.{type}.f32 {{0}}, {{1}};", dtype, a).astype(F64)
    assert (np.abs(found) <= np.abs(a)).all()
    assert_allclose(found, a, rtol=2.0 ** -(7 if dtype == BF16 else 10))
