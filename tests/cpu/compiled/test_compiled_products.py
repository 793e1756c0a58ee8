"""Products with packed weights, against numpy's: every format in every instruction set.

How far apart they may be follows from how kernels compute. Grouped weights meet activations as
whole numbers, each of them wrong by up to half a step of its group; beyond that, and for plain
weights, there are the roundings of float32 sums.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, in_each_instruction_set, operators
from numpy.typing import NDArray
from packed_weights import GROUPED, HALVES, bytes_of_rows, matrix_of, panels_of

from cullama.cpu.compiled.activation_quantisation import MAX_QUANT, MIN_MAGNITUDE
from cullama.cpu.compiled.operators import PANELS_IN_CHUNK, TOKENS_IN_CHUNK
from cullama.cpu.packed import FORMATS, PANEL, PackedMatrix
from cullama.files.quantized_blocks import GROUP
from cullama.model.layer import Linear

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

TOKENS = (1, 2, 3, 5, 8, 9, 17, 64, 130)
ROWS = (1, 15, 16, 17, 53, 130)

assert max(TOKENS) > TOKENS_IN_CHUNK  # more than one chunk of either
assert max(ROWS) > PANELS_IN_CHUNK * PANEL

each_format = pytest.mark.parametrize("format_name", FORMATS)


@cache
def matrix(format_name: str, rows: int, columns: int) -> PackedMatrix:
    raw = bytes_of_rows(format_name, max(ROWS), columns)[:rows]
    return PackedMatrix((panels_of(format_name, raw, columns),), columns)


@cache
def random(*shape: int, seed: int = 0) -> Floats:
    numbers = np.random.default_rng([*shape, seed]).standard_normal(shape, np.float32)
    numbers.flags.writeable = False
    return numbers


def product(name: str, x: Floats, weight: PackedMatrix, *more: Any, threads: int = 1) -> Floats:
    """Every number of the result has been NaN before."""
    bias, residual = (*more, None, None)[:2]
    return operators(name, threads=threads).linear(x, Linear(weight, bias), residual)


def exact(x: Floats, weight: PackedMatrix) -> Doubles:
    """What numpy's `PackedMatrix.product` means, in float64."""
    return x.astype(np.float64) @ np.concatenate(list(weight.pieces())).astype(np.float64).T


def room(x: Floats, weight: PackedMatrix) -> Doubles:
    """How far from the exact product a kernel's may be: [T, O]."""
    size = np.abs(x.astype(np.float64))
    bounds = []
    for part in weight.parts:
        numbers = np.abs(part.unpack(0, len(part.data)).astype(np.float64))
        of_format = _grouped_room if part.format.name in GROUPED else _plain_room
        bounds.append(of_format(size, numbers))
    return np.concatenate(bounds, axis=1)


def _plain_room(x: Doubles, weight: Doubles) -> Doubles:
    return (x.shape[1] + 8) * 2.0**-24 * (x @ weight.T)


def _grouped_room(x: Doubles, weight: Doubles) -> Doubles:
    """A group's largest weight stands for the scale and the minimum that made up all of it."""
    x, weight = (each.reshape(len(each), -1, GROUP) for each in (x, weight))
    steps = np.maximum(x.max(axis=2) * 0.51 / MAX_QUANT, MIN_MAGNITUDE) @ weight.sum(axis=2).T
    return steps + (4 * x.shape[1] + 8) * 2.0**-22 * (x.sum(axis=2) @ weight.max(axis=2).T)


def check(found: Floats, x: Floats, weight: PackedMatrix, *added: Floats | None) -> None:
    compare(found, exact(x, weight), room(x, weight), *added)


def compare(found: Floats, expected: Doubles, bound: Doubles, *added: Floats | None) -> None:
    for each in added:
        if each is not None:
            expected = expected + each
            bound = bound + 2.0**-23 * (np.abs(expected) + np.abs(each))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    apart = np.abs(found - expected)
    assert (apart <= bound).all(), (apart / bound).max()


@cache
def answers(format_name: str, columns: int) -> tuple[Doubles, Doubles]:
    """All tokens by all rows, and how far from that a kernel may be."""
    x, weight = random(max(TOKENS), columns), matrix(format_name, max(ROWS), columns)
    return exact(x, weight), room(x, weight)


# --- what it computes ----------------------------------------------------------------------------


@each_format
def test_numpy_s_product_is_within_the_same_bounds(format_name: str) -> None:
    x, weight = random(max(TOKENS), 256), matrix(format_name, max(ROWS), 256)
    compare(weight.product(x), *answers(format_name, 256))


@in_each_instruction_set
@each_format
def test_any_number_of_tokens_and_rows(name: str, format_name: str) -> None:
    x = random(max(TOKENS), 256)
    expected, bound = answers(format_name, 256)
    for rows in ROWS:
        weight = matrix(format_name, rows, 256)
        for tokens in TOKENS:
            found = product(name, x[:tokens], weight)
            compare(found, expected[:tokens, :rows], bound[:tokens, :rows])


@in_each_instruction_set
@each_format
def test_bias_and_residual_are_added(name: str, format_name: str) -> None:
    x = random(max(TOKENS), 256)
    expected, bound = answers(format_name, 256)
    for tokens in (1, 9, 130):
        for rows in (15, 16, 53):
            weight = matrix(format_name, rows, 256)
            bias, residual = random(rows, seed=1) * 3, random(tokens, rows, seed=2) * 3
            for more in ((bias, None), (None, residual), (bias, residual)):
                found = product(name, x[:tokens], weight, *more)
                compare(found, expected[:tokens, :rows], bound[:tokens, :rows], *more)


@in_each_instruction_set
@each_format
def test_one_block_of_columns_and_an_odd_number_of_them(name: str, format_name: str) -> None:
    block = FORMATS[format_name].block_columns
    for columns in (block, 3 * block, 5 * block) if block > 1 else (1, 7, 8, 9, 15, 17):
        weight, x = matrix(format_name, 21, columns), random(9, columns)
        check(product(name, x, weight), x, weight)


@in_each_instruction_set
@pytest.mark.parametrize("mixture", ["Q8_0+F16", "Q4_K+Q6_K", "F32+Q5_1+BF16"])
def test_parts_of_several_formats_lie_side_by_side(name: str, mixture: str) -> None:
    """Of 17, 18 … rows: each begins where no panel does."""
    weight, numbers = matrix_of(*mixture.split("+"), rows=17)
    for tokens in (1, 3, 130):
        x = random(tokens, weight.columns)
        bias, residual = random(len(numbers), seed=1), random(tokens, len(numbers), seed=2)
        check(product(name, x, weight, bias, residual), x, weight, bias, residual)


@in_each_instruction_set
@each_format
def test_extreme_quants_do_not_overflow(name: str, format_name: str) -> None:
    """All bits set or none, activations all as large as may be: the largest sums there are."""
    raw = bytes_of_rows(format_name, 33, 2048)
    if format_name in GROUPED:
        scales = raw.copy()
        for row, codes in enumerate([0xFF, 0x00] * 16 + [0xFF]):
            raw[row] = codes
        scale_places = _scale_places(format_name, raw.shape[1])
        raw[:, scale_places] = scales[:, scale_places]
    weight = PackedMatrix((panels_of(format_name, raw, 2048),), 2048)
    signs = np.where(np.arange(2048) % 3, 1, -1)
    x = np.stack([np.ones(2048), -np.ones(2048), signs, -signs]).astype(np.float32)
    check(product(name, x, weight), x, weight)


def _scale_places(format_name: str, row_bytes: int) -> NDArray[np.intp]:
    size = FORMATS[format_name].block_bytes
    starts = np.arange(0, row_bytes, size)[:, None]
    inside = [start + i for start in HALVES[format_name] for i in (0, 1)]
    return (starts + inside).ravel()


# --- magnitudes ----------------------------------------------------------------------------------


@in_each_instruction_set
@each_format
def test_magnitudes_huge_and_tiny_and_mixed(name: str, format_name: str) -> None:
    weight, x = matrix(format_name, 17, 512), random(9, 512)
    for magnitude in (1e30, 1e-30):
        check(product(name, x * np.float32(magnitude), weight), x * np.float32(magnitude), weight)
    by_group = np.repeat(10.0 ** np.linspace(-30, 30, 16), 32).astype(np.float32)
    check(product(name, x * by_group, weight), x * by_group, weight)
    by_token = 10.0 ** np.linspace(-30, 30, 9).astype(np.float32)[:, None]
    check(product(name, x * by_token, weight), x * by_token, weight)


@in_each_instruction_set
@each_format
def test_zeros_give_the_bias_and_nothing_else(name: str, format_name: str) -> None:
    weight, bias = matrix(format_name, 17, 512), random(17)
    for tokens in (1, 9):
        x = np.zeros((tokens, 512), np.float32)
        assert not product(name, x, weight).any()
        np.testing.assert_array_equal(product(name, x, weight, bias), np.tile(bias, (tokens, 1)))


@in_each_instruction_set
@each_format
def test_nan_and_infinity_stay_in_their_row_and_are_not_lost(name: str, format_name: str) -> None:
    """NaN and infinity at either end of a group; other rows are as before."""
    weight, x = matrix(format_name, 53, 512), random(17, 512)
    expected = product(name, x, weight)
    for none in (np.nan, np.inf, -np.inf):
        for token, column in ((0, 0), (3, 31), (7, 32), (8, 500), (16, 511)):
            spoiled = x.copy()
            spoiled[token, column] = none
            found = product(name, spoiled, weight)
            assert not np.isfinite(found[token]).any()
            others = np.arange(17) != token
            np.testing.assert_array_equal(found[others], expected[others])


@in_each_instruction_set
@each_format
def test_a_weight_of_nan_affects_its_row_only(name: str, format_name: str) -> None:
    raw = bytes_of_rows(format_name, 20, 512)
    x = random(5, 512)
    expected = product(name, x, PackedMatrix((panels_of(format_name, raw, 512),), 512))
    if format_name in GROUPED:
        start = HALVES[format_name][0]
        raw[17, start : start + 2] = np.array([0x7E00], "<u2").view(np.uint8)
    else:
        raw[17, 3] = np.nan
    found = product(name, x, PackedMatrix((panels_of(format_name, raw, 512),), 512))
    assert np.isnan(found[:, 17]).all()
    others = np.arange(20) != 17
    np.testing.assert_array_equal(found[:, others], expected[:, others])


# --- the same bits in any company ----------------------------------------------------------------


@in_each_instruction_set
@each_format
def test_a_token_has_the_same_bits_in_any_batch(name: str, format_name: str) -> None:
    """Of any size, at any place in it, shared by any number of threads."""
    weight, x = matrix(format_name, 53, 512), random(130, 512)
    bias, residual = random(53, seed=1), random(130, 53, seed=2)
    together = product(name, x, weight, bias, residual)
    for tokens in (1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 31, 64, 127, 129):
        for start in {0, 1, 64, 130 - tokens} & set(range(131 - tokens)):
            rows = slice(start, start + tokens)
            alone = product(name, x[rows].copy(), weight, bias, residual[rows].copy())
            np.testing.assert_array_equal(alone, together[rows])
    for threads in (2, 3):
        found = product(name, x, weight, bias, residual, threads=threads)
        np.testing.assert_array_equal(found, together)


@in_each_instruction_set
@each_format
def test_a_row_of_the_weight_has_the_same_bits_in_any_matrix(name: str, format_name: str) -> None:
    raw, x = bytes_of_rows(format_name, 70, 512), random(3, 512)
    whole = product(name, x, PackedMatrix((panels_of(format_name, raw, 512),), 512))
    for start, end in ((0, 70), (0, 1), (1, 70), (15, 18), (16, 32), (69, 70)):
        part = PackedMatrix((panels_of(format_name, raw[start:end], 512),), 512)
        np.testing.assert_array_equal(product(name, x, part), whole[:, start:end])


def test_all_instruction_sets_agree_to_the_bit_where_sums_are_exact() -> None:
    """Sums of whole numbers are exact; scales are powers of two here, so that all else is too."""
    raw = bytes_of_rows("Q8_0", 20, 256)
    places = _scale_places("Q8_0", raw.shape[1])
    raw[:, places] = np.tile(np.array([0x3C00], "<u2").view(np.uint8), len(places) // 2)
    weight = PackedMatrix((panels_of("Q8_0", raw, 256),), 256)
    x = np.random.default_rng(0).integers(-32512, 32513, (5, 256)).astype(np.float32)
    x[:, ::32] = 32512  # so that each group's scale is 1
    first = product(NAMES[0], x, weight)
    for name in NAMES[1:]:
        np.testing.assert_array_equal(product(name, x, weight), first)
