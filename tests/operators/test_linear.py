"""x · weightᵀ (+ bias) (+ residual), for weights of any shape, made of any number of parts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
from numpy.typing import DTypeLike
from reference import Floats
from subject import Subject, stored

from cullama.errors import UsageError

# I, O: wide, tall, square and thin; multiples of 64 and not; larger than what is converted at once.
SHAPES = [
    *[(1, 1), (3, 31), (31, 3), (33, 97), (97, 33), (257, 1), (1, 257), (600, 257)],
    *[(1, 64), (64, 64), (31, 128), (257, 192), (600, 320)],
]


def random(subject: Subject, rng: np.random.Generator, *shape: int) -> Floats:
    return subject.rounded(rng.normal(size=shape))


@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_product(
    subject: Subject, rng: np.random.Generator, tokens: int, inputs: int, outputs: int
) -> None:
    x, weight = random(subject, rng, tokens, inputs), random(subject, rng, outputs, inputs)
    actual = subject.linear(subject.activation(x), subject.weight(weight))
    subject.check(actual, reference.linear(x, weight))


@pytest.mark.parametrize("tokens", [1, 33])
def test_sums_are_float32_from_the_first_input_to_the_last(subject: Subject, tokens: int) -> None:
    """2048.5 on the way is no number of either half type."""
    weight = np.zeros((3, 400))
    weight[:, 0], weight[:, 1], weight[:, 300] = 2048, 0.5, -2048
    x = np.ones((tokens, 400))
    actual = subject.linear(subject.activation(x), subject.weight(weight))
    np.testing.assert_array_equal(subject.floats(actual), np.full((tokens, 3), 0.5))


@pytest.mark.parametrize("tokens", [1, 31])
@pytest.mark.parametrize(("inputs", "outputs"), [(33, 97), (97, 33), (257, 600), (33, 128)])
@pytest.mark.parametrize(
    ("with_bias", "with_residual"), [(True, False), (False, True), (True, True)]
)
def test_bias_and_residual_are_added(
    subject: Subject,
    rng: np.random.Generator,
    tokens: int,
    inputs: int,
    outputs: int,
    with_bias: bool,
    with_residual: bool,
) -> None:
    x, weight = random(subject, rng, tokens, inputs), random(subject, rng, outputs, inputs)
    bias = random(subject, rng, outputs) * 3 if with_bias else None
    bias = None if bias is None else subject.rounded(bias)
    residual = random(subject, rng, tokens, outputs) if with_residual else None
    actual = subject.linear(
        subject.activation(x),
        subject.weight(weight),
        None if bias is None else subject.vector(bias),
        None if residual is None else subject.activation(residual),
    )
    subject.check(actual, reference.linear(x, weight, bias, residual))


def test_no_operand_is_changed(subject: Subject, rng: np.random.Generator) -> None:
    for inputs, outputs in [(5, 9), (9, 5), (9, 9), (5, 64)]:
        x = subject.activation(random(subject, rng, 3, inputs))
        weight = subject.weight(random(subject, rng, outputs, inputs))
        bias = subject.vector(random(subject, rng, outputs))
        residual = subject.activation(random(subject, rng, 3, outputs))
        arrays = (x, bias, residual)
        before = [subject.floats(array).copy() for array in arrays]
        weight_before = subject.rows_of(weight, outputs).copy()
        first = subject.floats(subject.linear(x, weight, bias, residual)).copy()
        for array, as_it_was in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(subject.floats(array), as_it_was)
        np.testing.assert_array_equal(subject.rows_of(weight, outputs), weight_before)
        again = subject.linear(x, weight, bias, residual)
        np.testing.assert_array_equal(subject.floats(again), first)


def test_the_input_may_be_the_residual(subject: Subject, rng: np.random.Generator) -> None:
    for width in (33, 64):
        x, weight = random(subject, rng, 3, width), random(subject, rng, width, width)
        on_device = subject.activation(x)
        actual = subject.linear(on_device, subject.weight(weight), residual=on_device)
        subject.check(actual, reference.linear(x, weight, residual=x))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(31, (3, 97, 1)), (257, (33, 1, 31)), (31, (3, 97, 28)), (31, (64, 63, 65)), (5, (192, 64))],
)
def test_parts_are_stacked_in_order(
    subject: Subject, rng: np.random.Generator, inputs: int, outputs: tuple[int, ...]
) -> None:
    x = random(subject, rng, 3, inputs)
    parts = [random(subject, rng, rows, inputs) for rows in outputs]
    biases = [random(subject, rng, rows) for rows in outputs]
    actual = subject.linear(subject.activation(x), subject.weight(*parts), subject.vector(*biases))
    expected = [reference.linear(x, part, bias) for part, bias in zip(parts, biases, strict=True)]
    subject.check(actual, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("rows_a_tile", [1, 2, 31, 63, 64, 65, 1000])
def test_how_a_file_hands_out_its_rows_does_not_matter(
    subject: Subject, rng: np.random.Generator, rows_a_tile: int
) -> None:
    for outputs in (97, 192):
        x, weight = random(subject, rng, 1, 3), random(subject, rng, outputs, 3)
        on_device = subject.weight(weight, rows_a_tile=rows_a_tile)
        actual = subject.linear(subject.activation(x), on_device)
        subject.check(actual, reference.linear(x, weight))


@pytest.mark.parametrize("kept_as", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_weight_of_any_stored_type_is_rounded_once(
    subject: Subject, rng: np.random.Generator, kept_as: DTypeLike
) -> None:
    as_stored = rng.normal(size=(9, 9)).astype(kept_as).astype(np.float64)
    weight = subject.ops.weight([stored(as_stored, 4, kept_as)])
    bias = subject.ops.vector([stored(as_stored[0], 4, kept_as)])
    actual = subject.linear(subject.activation(np.eye(9)), weight, bias)
    kept = subject.rounded(as_stored)
    subject.check(actual, kept.T + kept[0])


def test_a_vector_is_rounded_to_the_storage_type(subject: Subject) -> None:
    third = subject.vector(np.array([1 / 3]))
    np.testing.assert_array_equal(subject.floats(third), subject.rounded([1 / 3]))


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_magnitudes_from_tiny_to_large(
    subject: Subject, rng: np.random.Generator, magnitude: float
) -> None:
    x = subject.rounded(rng.normal(size=(3, 97)) * magnitude)
    # In float16 a product of large numbers must still be one.
    weight = subject.rounded(rng.normal(size=(31, 97)) * min(1.0, 1 / magnitude))
    actual = subject.linear(subject.activation(x), subject.weight(weight))
    subject.check(actual, reference.linear(x, weight))


def test_sums_are_taken_in_float32(subject: Subject) -> None:
    """4,096 ones and a half: a sum kept in 16 bits would stand still long before."""
    ones = np.ones((1, 4097))
    ones[0, 0] = 0.5
    for outputs in (1, 3, 64):
        weight = np.ones((outputs, 4097))
        actual = subject.linear(subject.activation(ones), subject.weight(weight))
        subject.check(actual, np.full((1, outputs), 4096.5))


@pytest.mark.parametrize("outputs", [3, 9, 64])
def test_no_tokens_are_no_tokens(subject: Subject, outputs: int) -> None:
    """As when a step reads part of a long prompt, and nobody's logits are wanted."""
    weight, bias = subject.weight(np.ones((outputs, 5))), subject.vector(np.ones(outputs))
    actual = subject.linear(subject.activation(np.ones((0, 5))), weight, bias)
    assert subject.floats(actual).shape == (0, outputs)


def test_each_token_is_on_its_own(subject: Subject, rng: np.random.Generator) -> None:
    for outputs in (97, 128):
        x, weight = random(subject, rng, 33, 31), random(subject, rng, outputs, 31)
        on_device = subject.weight(weight)
        together = subject.floats(subject.linear(subject.activation(x), on_device))
        for row in (0, 16, 32):
            alone = subject.linear(subject.activation(x[row : row + 1]), on_device)
            subject.check(alone, together[row : row + 1])


@pytest.mark.parametrize("columns", [1, 32, 34, 64])
def test_inputs_that_are_not_as_wide_as_the_weight_are_refused(
    subject: Subject, columns: int
) -> None:
    """A kernel would read what lies behind them."""
    weight = subject.weight(np.ones((5, 33)))
    with pytest.raises((UsageError, ValueError)):  # the second is numpy's
        subject.linear(subject.activation(np.ones((2, columns))), weight)
