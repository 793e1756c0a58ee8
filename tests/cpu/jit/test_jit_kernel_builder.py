"""The language of kernels: every operator of a `Value` against numpy's, in all instruction sets.

Operators of one kind are written into one kernel, which goes over rows of sixteen numbers; each
is then compared by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from compiled_cpu import NAMES, computed, in_each_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.cpu.jit.kernel_builder import F16, F32, I8, I16, I32, I64, KernelBuilder, Value, vector

Array = NDArray[Any]

LANES = 16

ENDS = [0, 1, -1, 127, -128, 128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 5, -5, 40000, 9]
STRANGE = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan,
           0.5, 1.5, 2.5, -0.5, -2.5, 8388607.5, 16777217.0, 1 / 3]  # fmt: skip

# What is written into a kernel, and what numpy says it means.
Case = tuple[Callable[[KernelBuilder, Value, Value], Value], Callable[[Array, Array], Array]]


def chosen(
    condition: Callable[[Value, Value], Value],
) -> Callable[[KernelBuilder, Value, Value], Value]:
    """A comparison shows in what it chooses."""
    return lambda builder, a, b: condition(a, b).select(a, b)


INTEGERS: dict[str, Case] = {
    "add": (lambda builder, a, b: a + b, np.add),
    "sub": (lambda builder, a, b: a - b, np.subtract),
    "mul": (lambda builder, a, b: a * b, np.multiply),
    "and": (lambda builder, a, b: a & b, np.bitwise_and),
    "or": (lambda builder, a, b: a | b, np.bitwise_or),
    "xor": (lambda builder, a, b: a ^ b, np.bitwise_xor),
    "left": (lambda builder, a, b: a << (b & 31), lambda a, b: a << (b & 31)),
    "right": (lambda builder, a, b: a >> (b & 31), lambda a, b: unsigned(a) >> unsigned(b & 31)),
    "signed right": (
        lambda builder, a, b: a.arithmetic_shift_right(b & 31),
        lambda a, b: a >> (b & 31),
    ),
    "div": (lambda builder, a, b: a // (b | 1), lambda a, b: unsigned(a) // unsigned(b | 1)),
    "mod": (lambda builder, a, b: a % (b | 1), lambda a, b: unsigned(a) % unsigned(b | 1)),
    "less": (chosen(lambda a, b: a < b), np.minimum),
    "less or equal": (chosen(lambda a, b: a <= b), np.minimum),
    "greater": (chosen(lambda a, b: a > b), np.maximum),
    "greater or equal": (chosen(lambda a, b: a >= b), np.maximum),
    "equal": (
        lambda builder, a, b: (a & 3).equals(b & 3).select(a, 7),
        lambda a, b: np.where((a & 3) == (b & 3), a, 7),
    ),
    "minimum": (lambda builder, a, b: a.minimum(b), np.minimum),
    "maximum": (lambda builder, a, b: a.maximum(b), np.maximum),
    "minimum of a number": (lambda builder, a, b: a.minimum(-5), lambda a, b: np.minimum(a, -5)),
    "plain numbers": (
        lambda builder, a, b: (a * 3 - 5 & 255 | 256) ^ 1,
        lambda a, b: (a * 3 - 5 & 255 | 256) ^ 1,
    ),
}

FLOATS: dict[str, Case] = {
    "add": (lambda builder, a, b: a + b, np.add),
    "sub": (lambda builder, a, b: a - b, np.subtract),
    "mul": (lambda builder, a, b: a * b, np.multiply),
    "div": (lambda builder, a, b: a / b, np.divide),
    "less": (chosen(lambda a, b: a < b), lambda a, b: np.where(a < b, a, b)),
    "less or equal": (chosen(lambda a, b: a <= b), lambda a, b: np.where(a <= b, a, b)),
    "greater": (chosen(lambda a, b: a > b), lambda a, b: np.where(a > b, a, b)),
    "greater or equal": (chosen(lambda a, b: a >= b), lambda a, b: np.where(a >= b, a, b)),
    "equal": (
        lambda builder, a, b: a.equals(b).select(a, 7.0),
        lambda a, b: np.where(a == b, a, np.float32(7)),
    ),
    "maximum": (lambda builder, a, b: a.maximum(b), lambda a, b: np.where(a > b, a, b)),
    "root": (
        lambda builder, a, b: builder.sqrt(builder.abs(a)),
        lambda a, b: np.sqrt(np.abs(a)),
    ),
    "magnitude": (lambda builder, a, b: builder.abs(a), lambda a, b: np.abs(a)),
    "nearest": (lambda builder, a, b: builder.rint(a), lambda a, b: np.rint(a)),
    "plain numbers": (
        lambda builder, a, b: (a * 0.1 + 1e-3) / 3.0 - 2,
        lambda a, b: (a * np.float32(0.1) + np.float32(1e-3)) / np.float32(3) - np.float32(2),
    ),
}


def unsigned(a: Array) -> Array:
    return a.astype(np.int32).view(np.uint32)


def evaluated(
    name: str, cases: dict[str, Case], a: Array, b: Array, lanes: int
) -> dict[str, Array]:
    """What a kernel gives for each case: all numbers, so many at a time."""
    element, size = (F32, 4) if a.dtype == np.float32 else (I32, 4)
    type_ = vector(element, lanes) if lanes > 1 else element
    out = np.full((len(cases), a.size), 77, a.dtype)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(builder.load(I64, arrays.count), 0, lanes) as place:
            x, y = (builder.load(type_, array + place * size) for array in (arrays.a, arrays.b))
            for index, (write, _) in enumerate(cases.values()):
                row = arrays.out + builder.load(I64, arrays.count) * (size * index)
                builder.store(write(builder, x, y), row + place * size)

    kind = "floats" if element == F32 else "integers"
    computed(
        name, f"{kind}_by_{lanes}", body, a=a, b=b, out=out, count=np.array([a.size], np.int64)
    )
    return dict(zip(cases, out, strict=True))


def pairs(numbers: Array, others: Array) -> tuple[Array, Array]:
    """Each strange number with each, and a few thousand pairs of whatever bits."""
    x, y = (each.ravel() for each in np.meshgrid(numbers, numbers))
    random = np.concatenate([others[: 16 - len(x) % 16], others[16:]])
    return np.concatenate([x, random]), np.concatenate([y, random[::-1]])


def any_bits(kind: type) -> Array:
    draw = np.random.default_rng(0)
    return draw.integers(-(2**31), 2**31, 4112, np.int64).astype(np.int32).view(kind)


@in_each_instruction_set
@pytest.mark.parametrize("lanes", [1, LANES])
def test_integers(name: str, lanes: int) -> None:
    x, y = pairs(np.array(ENDS, np.int32), any_bits(np.int32))
    found = evaluated(name, INTEGERS, x, y, lanes)
    for case, (_, mean) in INTEGERS.items():
        with np.errstate(over="ignore"):
            expected = mean(x, y).astype(np.int64).astype(np.int32)
        np.testing.assert_array_equal(found[case], expected, err_msg=case)


@in_each_instruction_set
@pytest.mark.parametrize("lanes", [1, LANES])
def test_floats_to_the_bit(name: str, lanes: int) -> None:
    """Infinities, zeros of both signs and subnormal numbers too; NaN where numpy has it."""
    x, y = pairs(np.array(STRANGE, np.float32), any_bits(np.float32))
    found = evaluated(name, FLOATS, x, y, lanes)
    for case, (_, mean) in FLOATS.items():
        with np.errstate(all="ignore"):
            expected = mean(x, y).astype(np.float32)
        is_nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(found[case]), is_nan, err_msg=case)
        same = found[case].view(np.int32) == expected.view(np.int32)
        assert (same | is_nan).all(), (case, x[~same], y[~same])


# --- lanes ---------------------------------------------------------------------------------------


def by_halves(numbers: Array, combine: Callable[[Array, Array], Array]) -> Any:
    while len(numbers) > 1:
        numbers = combine(*np.split(numbers, 2))
    return numbers[0]


@in_each_instruction_set
@given(a=st.lists(st.floats(-1e6, 1e6, width=32), min_size=LANES, max_size=LANES))
def test_lanes_are_added_by_halves(name: str, a: list[float]) -> None:
    """In that order and no other: what else it might be, is seen in the last bits."""
    x, out = np.array(a, np.float32), np.zeros(2, np.float32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = builder.load(vector(F32, LANES), arrays.x)
        builder.store(numbers.reduce_add(), arrays.out)
        builder.store(numbers.reduce_max(), arrays.out + 4)

    computed(name, "by_halves", body, x=x, out=out)
    assert out[0] == by_halves(x, np.add)
    assert out[1] == x.max()


@in_each_instruction_set
def test_lanes_change_places(name: str) -> None:
    x, out = np.arange(16, dtype=np.int32) * 10, np.zeros((8, 16), np.int32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = builder.load(vector(I32, 16), arrays.x)
        low, high = numbers.halves()
        rows = [
            numbers.shuffle(range(15, -1, -1)),
            high.shuffle(range(16), low),
            numbers.shuffle([lane + 16 * (lane % 2) for lane in range(16)], numbers + 1),
            numbers.extract(3).splat(16),
            builder.constants(I32, range(100, 116)),
            numbers + numbers.extract(2),  # one number meets a vector
            builder.constant(vector(I32, 16), -4),
            numbers.broadcast(9),
        ]
        for index, row in enumerate(rows):
            builder.store(row, arrays.out + 64 * index)

    computed(name, "places", body, x=x, out=out)
    odd = np.arange(16) % 2
    counted = np.arange(100, 116)
    expected = [x[::-1], np.roll(x, 8), x + odd, 30 + 0 * x, counted, x + 20, 0 * x - 4, 0 * x + 9]
    np.testing.assert_array_equal(out, expected)


# --- other types ---------------------------------------------------------------------------------


@in_each_instruction_set
def test_integers_become_wider_and_narrower(name: str) -> None:
    x = np.array(ENDS, np.int32)
    narrow, wide, unsigned_, long = (np.zeros(16, kind) for kind in ("i1", "i4", "i4", "i8"))

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = builder.load(vector(I32, 16), arrays.x)
        builder.store(numbers.to(I8), arrays.narrow)
        builder.store(numbers.to(I16).to(I32), arrays.wide)
        builder.store(numbers.to(I16).to(I32, signed=False), arrays.unsigned_)
        builder.store(numbers.to(I64), arrays.long)

    computed(name, "widths", body, x=x, narrow=narrow, wide=wide, unsigned_=unsigned_, long=long)
    np.testing.assert_array_equal(narrow, x.astype(np.int8))
    np.testing.assert_array_equal(wide, x.astype(np.int16))
    np.testing.assert_array_equal(unsigned_, x.astype(np.uint16))
    np.testing.assert_array_equal(long, x)


@in_each_instruction_set
def test_integers_become_floats_and_back(name: str) -> None:
    x, back = np.array(ENDS, np.int32), np.zeros(16, np.int32)
    signed, unsigned_ = np.zeros(16, np.float32), np.zeros(16, np.float32)
    fractions = np.array([0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 2e9, -2e9] * 2, np.float32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = builder.load(vector(I32, 16), arrays.x)
        builder.store(numbers.to(F32), arrays.signed)
        builder.store(numbers.to(F32, signed=False), arrays.unsigned_)
        builder.store(builder.load(vector(F32, 16), arrays.fractions).to(I32), arrays.back)

    computed(
        name,
        "floats_of_integers",
        body,
        x=x,
        signed=signed,
        unsigned_=unsigned_,
        fractions=fractions,
        back=back,
    )
    np.testing.assert_array_equal(signed, x.astype(np.float32))
    np.testing.assert_array_equal(unsigned_, x.view(np.uint32).astype(np.float32))
    np.testing.assert_array_equal(back, np.trunc(fractions))


@in_each_instruction_set
def test_bits_are_read_as_another_type(name: str) -> None:
    x, out = np.linspace(-3, 7, 16, dtype=np.float32), np.zeros((2, 64), np.uint8)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = builder.load(vector(F32, 16), arrays.x)
        builder.store(numbers.bitcast(vector(I8, 64)), arrays.out)
        for lane in range(16):
            builder.store(numbers.extract(lane).bitcast(I32), arrays.out + (64 + 4 * lane))

    computed(name, "bits", body, x=x, out=out)
    np.testing.assert_array_equal(out, [x.view(np.uint8)] * 2)


@in_each_instruction_set
def test_nothing_need_be_aligned(name: str) -> None:
    room, out = np.arange(300, dtype=np.uint8), np.zeros(300, np.uint8)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        for start, element, size in ((1, I8, 1), (67, I16, 2), (133, F32, 4)):
            count = 64 // size
            builder.store(
                builder.load(vector(element, count), arrays.room + start), arrays.out + start
            )
        for start, element in ((201, I64), (211, I32), (217, I16), (221, I8), (223, F32)):
            builder.store(builder.load(element, arrays.room + start), arrays.out + start)

    computed(name, "unaligned", body, room=room, out=out)
    copied = [(1, 64), (67, 64), (133, 64), (201, 8), (211, 4), (217, 2), (221, 1), (223, 4)]
    expected = np.zeros(300, np.uint8)
    for start, size in copied:
        expected[start : start + size] = room[start : start + size]
    np.testing.assert_array_equal(out, expected)


@in_each_instruction_set
def test_a_product_with_a_sum_is_rounded_once_or_twice(name: str) -> None:
    draw = np.random.default_rng(0)
    x, y, z = draw.standard_normal((3, 16)).astype(np.float32)
    out = np.zeros(16, np.float32)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        numbers = [builder.load(vector(F32, 16), arrays.__dict__[each]) for each in "xyz"]
        builder.store(builder.fma(*numbers), arrays.out)

    computed(name, "fma", body, x=x, y=y, z=z, out=out)
    once = (x.astype(np.float64) * y + z).astype(np.float32)
    np.testing.assert_array_equal(out, x * y + z if name == "plain" else once)


# --- the course of things ------------------------------------------------------------------------


@in_each_instruction_set
@given(start=st.integers(-5, 20), end=st.integers(-5, 20))
@pytest.mark.parametrize("step", [1, 3, 16])
def test_a_loop_is_python_s_range(name: str, step: int, start: int, end: int) -> None:
    """Also where there is nothing to go round for."""
    ends, out = np.array([start, end], np.int64), np.full(40, -99, np.int64)
    count = np.zeros(1, np.int64)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        done = builder.variable(builder.i64(0))
        first, last = (builder.load(I64, arrays.ends + 8 * i) for i in range(2))
        with builder.loop(last, first, step) as place:
            builder.store(place, arrays.out + done.get() * 8)
            done.add(1)
        builder.store(done.get(), arrays.count)

    computed(name, f"range_by_{step}", body, ends=ends, out=out, count=count)
    expected = list(range(start, end, step))
    assert out[: len(expected)].tolist() == expected
    assert count[0] == len(expected)
    assert (out[len(expected) :] == -99).all()


@in_each_instruction_set
@given(a=st.integers(0, 10**6), b=st.integers(1, 10**6))
def test_a_loop_without_an_end_is_left_when_told(name: str, a: int, b: int) -> None:
    """Euclid's."""
    numbers, out = np.array([a, b], np.int64), np.zeros(1, np.int64)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        x, y = (builder.variable(builder.load(I64, arrays.numbers + 8 * i)) for i in range(2))
        with builder.loop_forever() as break_if:
            break_if(y.get().equals(0))
            rest = x.get() % y.get()
            x.set(y.get())
            y.set(rest)
        builder.store(x.get(), arrays.out)

    computed(name, "euclid", body, numbers=numbers, out=out)
    assert out[0] == gcd(a, b)


@in_each_instruction_set
@pytest.mark.parametrize("number", [-1, 0, 1, 5])
def test_when_is_run_when_it_holds(name: str, number: int) -> None:
    numbers, out = np.array([number], np.int64), np.zeros(2, np.int64)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        found = builder.load(I64, arrays.numbers)
        with builder.when(found > 0):
            builder.store(builder.i64(1), arrays.out)
            with builder.when(found > 1):
                builder.store(found, arrays.out + 8)

    computed(name, "when", body, numbers=numbers, out=out)
    assert out.tolist() == [int(number > 0), number if number > 1 else 0]


@in_each_instruction_set
def test_scratch_is_ours_alone(name: str) -> None:
    x, out = np.arange(64, dtype=np.uint8), np.zeros((3, 64), np.uint8)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        places = [builder.alloca(64) for _ in range(3)]
        numbers = builder.load(vector(I8, 64), arrays.x)
        for index, place in enumerate(places):
            builder.store(numbers + index, place)
        for index, place in enumerate(places):
            builder.store(builder.load(vector(I8, 64), place), arrays.out + 64 * index)

    computed(name, "scratch", body, x=x, out=out)
    np.testing.assert_array_equal(out, x + np.arange(3)[:, None].astype(np.uint8))


@in_each_instruction_set
def test_shared_numbers_are_exchanged_and_added_to(name: str) -> None:
    shared, out = np.array([40, 7], np.int64), np.zeros(3, np.int64)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        before = builder.fetch_add(arrays.shared, 2)
        swapped = builder.exchange(arrays.shared + 8, before + 1)
        builder.pause()
        for place, value in enumerate([before, swapped, builder.load_atomic(arrays.shared)]):
            builder.store(value, arrays.out + 8 * place)

    computed(name, "exchange", body, shared=shared, out=out)
    assert shared.tolist() == [42, 41]
    assert out.tolist() == [40, 7, 42]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "plain"])
def test_half_precision_is_converted_by_the_processor(name: str) -> None:
    """Where it has an instruction for that; plain has none."""
    x = np.arange(1 << 16, dtype=np.uint16)
    out, back = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.uint16)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(1 << 16, 0, 16) as place:
            halves = builder.load(vector(I16, 16), arrays.x + place * 2).bitcast(vector(F16, 16))
            builder.store(halves.to(F32), arrays.out + place * 4)
            builder.store(halves.to(F32).to_half(), arrays.back + place * 2)

    computed(name, "halves", body, x=x, out=out, back=back)
    expected = x.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out, expected)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(back[is_number], x[is_number])
    assert np.isnan(back.view(np.float16)[~is_number]).all()


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    """What kernels rely on when they shift."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16).astype(np.float32), wide)
