"""Kernels that go over rows, against numpy's operators of the same names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from compiled_cpu import computed, in_each_instruction_set, operators
from numpy.typing import NDArray
from packed_weights import assert_same_bits

from cullama.cpu.compiled.rows import exp, round_to
from cullama.cpu.jit.kernel_builder import F32, KernelBuilder, vector
from cullama.cpu.operators import CpuOperators
from cullama.cpu.packed import FORMATS, Plain
from cullama.model.layer import Norm

Floats = NDArray[np.float32]

WIDTHS = (1, 2, 15, 16, 17, 31, 33, 64, 100, 576)
ROWS = (1, 3, 4, 5, 9)

numpys = CpuOperators("float32", threads=1, has_tiles=False)


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng([*shape, seed]).standard_normal(shape, np.float32)


def at(x: Any, lanes: int) -> Any:
    return vector(x, lanes) if lanes > 1 else x


# --- exp -----------------------------------------------------------------------------------------


def exps(name: str, x: Floats, lanes: int = 16) -> Floats:
    out = np.full(len(x), -77, np.float32)
    assert len(x) % 16 == 0
    count = len(x)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(count, 0, lanes) as place:
            builder.store(
                exp(builder, builder.load(at(F32, lanes), arrays.x + place * 4)),
                arrays.out + place * 4,
            )

    computed(name, f"exp_{lanes}_{count}", body, x=x, out=out)
    return out


@in_each_instruction_set
@pytest.mark.parametrize("lanes", [1, 16])
def test_exp_is_right_to_two_units_in_the_last_place(name: str, lanes: int) -> None:
    """Over all that it is for; and at every place where the power of two changes."""
    halves = np.arange(-125, 127) * np.log(2) / 2
    edges = np.array([-87, 88, 0, -0.0, 1, -1, 1e-8, -1e-8, 1e-38, 1e-45])
    x = np.concatenate([np.linspace(-87, 88, 200_000), halves, halves + 1e-5, edges])
    x = np.concatenate([x, np.zeros(-len(x) % 16)]).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    unit = np.spacing(expected.astype(np.float32)).astype(np.float64)
    assert (np.abs(exps(name, x, lanes) - expected) / unit).max() <= 2
    assert (exps(name, x, lanes)[x == 0] == 1).all()


@in_each_instruction_set
def test_exp_of_extreme_numbers(name: str) -> None:
    """0 below, no infinity above, NaN of NaN."""
    x = np.array([-87.1, -88, -100, -1e4, -3e38, -np.inf, 88.1, 89, 1e4, 3e38, np.inf], np.float32)
    found = exps(name, np.concatenate([x, np.full(5, np.nan, np.float32)]))
    assert not found[:6].any()
    assert (found[6:11] == found[6]).all()
    np.testing.assert_allclose(found[6], np.exp(88.0), rtol=1e-6)
    assert np.isnan(found[11:]).all()


# --- narrower numbers ----------------------------------------------------------------------------


def narrow(name: str, kind: str, x: Floats, lanes: int) -> NDArray[Any]:
    format_ = FORMATS[kind]
    assert isinstance(format_, Plain)
    assert len(x) % 16 == 0
    count, size = len(x), format_.dtype.itemsize
    out = np.full(count, 77, format_.dtype)

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(count, 0, lanes) as place:
            number = builder.load(at(F32, lanes), arrays.x + place * 4)
            builder.store(round_to(builder, format_, number), arrays.out + place * size)

    computed(name, f"narrowed_{kind}_{lanes}_{count}", body, x=x, out=out)
    return out


def check_narrowed(name: str, kind: str, x: Floats, lanes: int = 16) -> None:
    dtype = FORMATS[kind].dtype  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
        expected = x.astype(dtype).astype(np.float32)
        assert_same_bits(narrow(name, kind, x, lanes).astype(np.float32), expected)


def neighbourhood(kind: type) -> Floats:
    """Every number of a 16-bit type, the middle to the next one, and the next float beside that."""
    ends = np.arange(1 << 15, dtype=np.uint16).view(kind).astype(np.float32)
    with np.errstate(all="ignore"):
        middles = (ends[:-1].astype(np.float64) + ends[1:]) / 2
        whole = np.concatenate([ends, middles]).astype(np.float32)
        around = [np.nextafter(middles.astype(np.float32), np.float32(to)) for to in (0, np.inf)]
    x = np.concatenate([whole, *around])
    return np.concatenate([x, -x, np.zeros(-2 * len(x) % 16, np.float32)])


@in_each_instruction_set
@pytest.mark.parametrize(
    ("kind", "dtype"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)], ids=["F16", "BF16"]
)
def test_every_number_is_rounded_to_the_nearest_of_sixteen_bits(
    name: str, kind: str, dtype: type
) -> None:
    """Ties to the even one, what is too large to infinity, what is too small to zero; NaN stays."""
    check_narrowed(name, kind, neighbourhood(dtype))


@in_each_instruction_set
@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("lanes", [1, 16])
def test_any_bits_are_rounded_alike(name: str, kind: str, lanes: int) -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint32)
    check_narrowed(name, kind, bits.view(np.float32), lanes)


@in_each_instruction_set
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_nan_stays_nan_when_rounded(name: str, kind: str) -> None:
    """For any bits: rounded as numbers are, some would become infinity or change sign."""
    positive = [0x7F800001, 0x7FFFFFFF, 0x7FC00000, 0x7F808000, 0x7FFF8000, 0x7F801000, 0x7FA00000]
    bits = [*positive, *(each | 1 << 31 for each in positive), 0x7FC00001, 0xFFC00001]
    found = narrow(name, kind, np.array(bits, np.uint32).view(np.float32), 16)
    assert np.isnan(found.astype(np.float32)).all()


# --- norms, SwiGLU -------------------------------------------------------------------------------


@in_each_instruction_set
def test_rms_norm_equals_numpy_s(name: str) -> None:
    ops = operators(name)
    for width in WIDTHS:
        for rows in ROWS:
            x, weight = random(rows, width) * 3, random(width, seed=1)
            for eps in (1e-6, 1.0):
                found, expected = (o.rms_norm(x, Norm(weight, eps)) for o in (ops, numpys))
                np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-12)


@in_each_instruction_set
def test_silu_mul_equals_numpy_s(name: str) -> None:
    ops = operators(name)
    for half in WIDTHS:
        for rows in ROWS:
            gate_up = random(rows, 2 * half) * 8
            found, expected = (o.silu_mul(gate_up) for o in (ops, numpys))
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-12)


@in_each_instruction_set
def test_silu_of_extreme_gates(name: str) -> None:
    """The output is 0 or x, without infinity or NaN on the way."""
    gates = np.array([-1e30, -1e4, -100, -89, -88, -87, 0, 87, 88, 89, 100, 1e4, 1e30], np.float32)
    found = operators(name).silu_mul(np.concatenate([gates, np.full(13, 2, np.float32)])[None])[0]
    np.testing.assert_allclose(found, np.maximum(gates, 0) * 2, rtol=1e-6, atol=1e-5)
    assert np.isfinite(found).all()


@in_each_instruction_set
@pytest.mark.parametrize("none", [np.nan, np.inf, -np.inf])
def test_nan_stays_in_its_row(name: str, none: float) -> None:
    ops, x = operators(name), random(9, 64)
    weight = random(64, seed=1)
    spoiled = x.copy()
    spoiled[4, 17] = none
    others = np.arange(9) != 4
    for operator in (lambda x: ops.rms_norm(x, Norm(weight, 1e-5)), ops.silu_mul):
        found, expected = operator(spoiled), operator(x)
        np.testing.assert_array_equal(found[others], expected[others])
    with np.errstate(all="ignore"):
        normed, inner = numpys.rms_norm(spoiled, Norm(weight, 1e-5)), numpys.silu_mul(spoiled)
    np.testing.assert_array_equal(
        np.isnan(ops.rms_norm(spoiled, Norm(weight, 1e-5))), np.isnan(normed)
    )
    np.testing.assert_array_equal(np.isnan(ops.silu_mul(spoiled)), np.isnan(inner))


@in_each_instruction_set
def test_a_row_has_the_same_bits_in_any_batch(name: str) -> None:
    x, weight = random(37, 100), random(100, seed=1)
    alone, shared = operators(name), operators(name, threads=3)
    normed, inner = alone.rms_norm(x, Norm(weight, 1e-5)), alone.silu_mul(x)
    np.testing.assert_array_equal(shared.rms_norm(x, Norm(weight, 1e-5)), normed)
    np.testing.assert_array_equal(shared.silu_mul(x), inner)
    for start, end in ((0, 1), (5, 9), (36, 37), (3, 37)):
        rows = x[start:end].copy()
        np.testing.assert_array_equal(alone.rms_norm(rows, Norm(weight, 1e-5)), normed[start:end])
        np.testing.assert_array_equal(alone.silu_mul(rows), inner[start:end])


# --- gather of plain tables ----------------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_a_table_are_copied(name: str, width: int) -> None:
    table = random(33, width)
    rows = np.array([32, 0, 7, 7, 31], np.int32)
    np.testing.assert_array_equal(operators(name).gather(table, rows), table[rows])
