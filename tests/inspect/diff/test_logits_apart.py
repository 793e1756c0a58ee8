"""Divergence and changes of the likeliest token between two sides' logits."""

from __future__ import annotations

from math import isnan, log, nan
from typing import Any

import numpy as np
import pytest

from cullama.inspect.diff.logits import LogitFigures, LogitGap


def gap(expected: Any, found: Any, at_a_time: int = 1000) -> LogitFigures:
    expected, found = np.asarray(expected, np.float32), np.asarray(found, np.float32)
    each = LogitGap(expected)
    for start in range(0, len(found), at_a_time):
        each.add(start, found[start : start + at_a_time])
    return each.figures()


def test_a_constant_added_to_all_changes_no_prediction() -> None:
    logits = np.array([[1, 5, 2], [3, 0, -900]], np.float32)
    found = gap(logits, logits + 7)
    np.testing.assert_allclose(found.divergence, 0, atol=1e-12)
    np.testing.assert_allclose(found.max_error, 7)
    assert found.turns == []
    assert found.agreement == 1


def test_divergence_equals_its_definition() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = gap([np.log(p) + 3], [np.log(q) - 40])
    assert found.divergence[0] == pytest.approx(0.5 * log(2) - 0.25 * log(2), rel=1e-5)


def test_a_changed_likeliest_token_comes_with_its_margin() -> None:
    found = gap([[1, 2, 0], [0, 0.5, 0.75]], [[1, 2, 0], [0, 1, 0.75]], at_a_time=1)
    assert found.turns == [(1, 2, 1, 0.25)]
    assert found.agreement == 0.5
    result = found.as_json()
    assert result["turns"] == [{"position": 1, "expected": 2, "found": 1, "margin": 0.25}]
    assert result["positions"]["expected"] == [1, 2]
    assert result["max_error"] == 0.5


def test_nan_logits_have_no_divergence() -> None:
    found = gap([[1, 2], [1, 2]], [[1, 2], [nan, 2]])
    assert not found.are_numbers
    assert isnan(found.divergence[1])
    assert found.as_json()["max_divergence"] is None
    assert found.as_json()["positions"]["divergence"] == [0, None]


def test_a_vocabulary_of_one_has_no_divergence() -> None:
    assert gap([[3]], [[4]]).divergence.tolist() == [0]
