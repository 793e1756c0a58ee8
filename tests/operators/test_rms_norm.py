"""x / √(mean x² + eps) · weight."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from subject import EPS, Subject

from cullama.errors import UsageError


@pytest.mark.parametrize("width", [1, 3, 31, 33, 97, 257, 1031])
@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_are_normed(
    subject: Subject, rng: np.random.Generator, tokens: int, width: int
) -> None:
    x = subject.rounded(rng.normal(size=(tokens, width)))
    weight = subject.rounded(rng.normal(size=width))
    actual = subject.rms_norm(subject.activation(x), subject.vector(weight), EPS)
    subject.check(actual, reference.rms_norm(x, weight, EPS))


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-2, 1.0])
def test_eps_counts_for_small_rows_and_not_for_large_ones(
    subject: Subject, rng: np.random.Generator, magnitude: float, eps: float
) -> None:
    x = subject.rounded(rng.normal(size=(3, 97)) * magnitude)
    weight = subject.rounded(rng.normal(size=97) * magnitude)
    actual = subject.rms_norm(subject.activation(x), subject.vector(weight), eps)
    subject.check(actual, reference.rms_norm(x, weight, eps))


def test_squares_that_half_precision_cannot_hold(subject: Subject) -> None:
    x = np.full((1, 33), 4096.0)  # its square is beyond float16
    x[0, 0] = 0
    actual = subject.rms_norm(subject.activation(x), subject.vector(np.ones(33)), EPS)
    subject.check(actual, reference.rms_norm(x, np.ones(33), EPS))


def test_each_row_has_its_own_scale(subject: Subject) -> None:
    x = np.array([[1e-3, -1e-3, 1e-3], [1.0, 1.0, -1.0], [-1e3, 1e3, 1e3]])
    x = subject.rounded(x)
    actual = subject.rms_norm(subject.activation(x), subject.vector(np.ones(3)), 1e-12)
    subject.check(actual, np.sign(x))


def test_zeros_stay_zeros(subject: Subject) -> None:
    actual = subject.rms_norm(
        subject.activation(np.zeros((3, 33))), subject.vector(np.ones(33)), 1e-6
    )
    np.testing.assert_array_equal(subject.floats(actual), 0)


def test_the_input_stays_as_it_was(subject: Subject, rng: np.random.Generator) -> None:
    x = subject.rounded(rng.normal(size=(3, 33)))
    on_device = subject.activation(x)
    subject.rms_norm(on_device, subject.vector(np.full(33, 2.0)), EPS)
    np.testing.assert_array_equal(subject.floats(on_device), x)


def test_no_tokens_are_no_tokens(subject: Subject) -> None:
    actual = subject.rms_norm(subject.activation(np.ones((0, 5))), subject.vector(np.ones(5)), EPS)
    assert subject.floats(actual).shape == (0, 5)


@pytest.mark.parametrize("columns", [2, 32, 34])
def test_rows_that_are_not_as_wide_as_the_weight_are_refused(
    subject: Subject, columns: int
) -> None:
    """A kernel would read what lies behind it."""
    with pytest.raises((UsageError, ValueError)):  # the second is numpy's
        subject.rms_norm(
            subject.activation(np.ones((2, columns))), subject.vector(np.ones(33)), EPS
        )
