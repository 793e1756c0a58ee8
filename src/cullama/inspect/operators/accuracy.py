"""Measures how far an operator's outputs are from the expected ones, and how far they may be."""

from __future__ import annotations

import math

import numpy as np

from .cases import Case
from .reference import Floats

# Of an element's error, relative to it and to the output's RMS; as in the tests of the operators.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def tolerance_of(case: Case, dtype: str) -> float:
    """Return the largest error that a case may have in a storage type."""
    return 0.0 if case.is_exact else TOLERANCE[dtype] * case.roundings


def error_of(case: Case, found: list[Floats], expected: list[Floats]) -> float:
    """Return the largest error of all outputs: infinite for NaN and for a wrong shape."""
    measure = _share_of_wrong if case.is_exact else _max_error
    return max(map(measure, found, expected))


def errors_of_elements(found: Floats, expected: Floats) -> Floats:
    """Return each element's error, relative to its expected value and the RMS; NaN is infinite."""
    rms = float(np.sqrt(np.mean(expected**2)))
    with np.errstate(invalid="ignore"):
        errors = np.abs(found - expected) / (np.abs(expected) + rms)
    return np.where(np.isfinite(found), errors, math.inf)


def _max_error(found: Floats, expected: Floats) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float(np.max(errors_of_elements(found, expected)))


def _share_of_wrong(found: Floats, expected: Floats) -> float:
    """Return the share of elements that differ."""
    if found.shape != expected.shape:
        return math.inf
    return float(np.mean(found != expected))
