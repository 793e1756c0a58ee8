"""Errors between two results, against sums written out by hand."""

from __future__ import annotations

from math import inf, isnan, nan, sqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.inspect.diff import figures
from cullama.inspect.diff.figures import Figures, Gap, total_relative


def gap(expected: Any, found: Any, at_a_time: int = 1000) -> Figures:
    expected, found = np.asarray(expected, np.float32), np.asarray(found, np.float32)
    each = Gap(expected)
    for start in range(0, len(found), at_a_time):
        each.add(start, found[start : start + at_a_time])
    return each.figures()


def test_the_same_numbers_have_no_error() -> None:
    found = gap([[1, -2], [0, 0]], [[1, -2], [0, 0]])
    assert found.is_identical
    assert (found.max_error, found.rms_error, found.relative, found.error) == (0, 0, 0, 0)
    assert found.point is None
    assert found.rms == sqrt(5 / 4)


def test_errors_equal_their_definitions() -> None:
    found = gap([[3, 4], [3, -4]], [[3, 4.5], [3, -4]])
    assert found.max_error == 0.5
    assert found.rms_error == sqrt(0.25 / 4)
    assert found.rms == sqrt(50 / 4)
    assert found.relative == found.rms_error / found.rms
    assert found.error == pytest.approx(sqrt(0.25 / 2) / sqrt(12.5))  # of the first token
    assert found.token_errors[1] == 0
    assert found.point == (0, 1, 4.0, 4.5)


def test_one_wrong_element_among_many_counts_though_their_rms_is_small() -> None:
    expected = np.ones((2, 100_000))
    found = expected.copy()
    found[1, 77_777] = 1.5
    result = gap(expected, found)
    assert result.relative < 2e-3
    assert result.error == pytest.approx(0.5 / 2 / figures.OUTLIER)
    assert result.point == (1, 77_777, 1.0, 1.5)


def test_one_wrong_token_counts_though_another_is_a_thousand_times_larger() -> None:
    expected = np.ones((5, 4))
    expected[0] = 1000
    found = expected.copy()
    found[3] = 1.1
    result = gap(expected, found)
    assert result.relative < 1e-3
    assert result.error == pytest.approx(0.1, rel=1e-5)
    assert result.point is not None
    assert result.point.token == 3


def test_a_token_that_cancels_to_almost_zero_is_measured_relative_to_the_others() -> None:
    expected = np.ones((5, 4))
    expected[2] = 1e-9
    found = expected.copy()
    found[2] = 1e-6
    assert gap(expected, found).error == pytest.approx(1e-6, rel=1e-2)


def test_a_nonzero_element_for_zeros_is_an_infinite_error() -> None:
    found = gap([[0, 0]], [[0, 1e-9]])
    assert found.error == inf
    assert found.relative == inf
    assert found.as_json()["relative"] is None


@pytest.mark.parametrize(
    ("expected", "found", "counts", "is_alike"),
    [
        (1, nan, (0, 1), False),
        (nan, 1, (1, 0), False),
        (inf, -inf, (1, 1), False),
        (inf, nan, (1, 1), False),
        (nan, nan, (1, 1), True),
        (inf, inf, (1, 1), True),
    ],
)
def test_nan_and_infinity_are_counted_and_equal_only_themselves(
    expected: float, found: float, counts: tuple[int, int], is_alike: bool
) -> None:
    result = gap([[2, 2, expected, 2]], [[2, 2, found, 2]])
    assert result.not_finite == counts
    assert result.error == (0 if is_alike else inf)
    assert (result.max_error, result.rms_error) == (0, 0)
    assert (result.point is None) == is_alike
    if not is_alike:
        assert result.point is not None
        assert result.point[:2] == (0, 2)
        assert result.as_json()["expected"] in (expected, str(expected))
        assert result.as_json()["error"] is None


def test_the_first_of_several_nans_is_named() -> None:
    result = gap(np.ones((3, 4)), [[1, 1, 1, 1], [1, 1, nan, nan], [nan, 1, 1, 1]])
    assert result.point is not None
    assert result.point[:2] == (1, 2)
    assert isnan(result.point.found)


def test_types_and_row_shapes_do_not_matter() -> None:
    expected = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    each = Gap(expected)
    each.add(0, expected.reshape(3, 8).astype(ml_dtypes.bfloat16))
    assert each.figures().is_identical


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 9), st.integers(1, 20))
def test_results_do_not_depend_on_how_rows_are_cut(
    rows: int, columns: int, at_a_time: int, block: int
) -> None:
    draw = np.random.default_rng(rows * columns)
    expected = draw.standard_normal((rows, columns))
    found = expected + draw.standard_normal((rows, columns)) * 1e-3
    whole = gap(expected, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "MAX_WIDENED", block)
        pieces = gap(expected, found, at_a_time)
    np.testing.assert_allclose(pieces.token_errors, whole.token_errors)
    assert pieces.rms_error == pytest.approx(whole.rms_error)
    assert (pieces.max_error, pieces.point) == (whole.max_error, whole.point)


def test_total_relative_is_over_all_elements() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.standard_normal((4, n)), draw.standard_normal((4, n))) for n in (3, 50)]
    a, b = (np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
    expected = np.linalg.norm((a - b).astype(np.float32)) / np.linalg.norm(a.astype(np.float32))
    assert total_relative([gap(*pair) for pair in pairs]) == pytest.approx(expected, rel=1e-5)
