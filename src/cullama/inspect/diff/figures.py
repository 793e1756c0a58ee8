"""Computes the error between two sides' results of one operator, from rows as a run yields them.

The tolerance limits one number, `error`: the largest over all tokens of

    the RMS error of the token's row, relative to the row's size
    an eighth of each element's error, relative to |a| + the row's size

The size of a row is its RMS, or the median row's RMS where that is larger. A few tokens of a Llama
have activations a thousand times larger than all others, so the RMS of all rows would hide errors
in the rest; and where attention cancels to almost zero, rounding is not to look like an error.
Rounding errors have a normal distribution: among millions of elements none is further out than
five or six times the RMS. So rounding within the first limit is within the second, and one wrong
token, or one wrong element among a million, still shows.

It does not decide what is tolerable.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files.tensor import HostArray

Doubles = NDArray[np.float64]

OUTLIER = 8  # times the RMS error; rounding stays below
MAX_WIDENED = 1 << 18  # elements converted to float64 at a time


class Point(NamedTuple):
    """The worst element of the worst token."""

    token: int
    column: int
    expected: float
    found: float


@dataclass(frozen=True, eq=False)
class Figures:
    """Errors of an operator's result, over finite elements; others are counted."""

    max_error: float
    rms_error: float
    rms: float  # of the first side's elements
    error: float  # see above; inf where one side's element is NaN or infinite and differs
    point: Point | None  # None where nothing differs
    not_finite: tuple[int, int]  # NaN or infinite elements of the first side, of the second
    elements: int
    token_errors: Doubles  # [T]: `error` is the largest of these

    @property
    def relative(self) -> float:
        """The RMS error relative to the RMS; inf where `error` is."""
        return inf if self.error == inf else _ratio(self.rms_error, self.rms)

    @property
    def is_identical(self) -> bool:
        return self.error == 0

    def as_json(self) -> dict[str, Any]:
        point = self.point
        return {
            "max_error": self.max_error,
            "rms_error": self.rms_error,
            "rms": self.rms,
            "relative": finite(self.relative),
            "error": finite(self.error),
            "token": point and point.token,
            "column": point and point.column,
            "expected": point and _number_or_name(point.expected),
            "found": point and _number_or_name(point.found),
            "not_finite": list(self.not_finite),
        }


class Gap:
    """Accumulates `Figures` from rows of the second side's result."""

    def __init__(self, expected: HostArray) -> None:
        """`expected`: the first side's result for all tokens, [T, …]."""
        self._expected = expected.reshape(len(expected), -1)
        tokens, columns = self._expected.shape
        self._step = max(1, MAX_WIDENED // columns)
        squares = np.zeros(tokens)  # of each row's finite elements
        for first in range(0, tokens, self._step):
            a = self._expected[first : first + self._step].astype(np.float64)
            squares[first : first + len(a)] = (np.where(np.isfinite(a), a, 0) ** 2).sum(1)
        self._reference = squares / columns
        self._sizes = np.sqrt(np.maximum(self._reference, np.median(self._reference)))
        self._squares, self._largest = np.zeros(tokens), np.zeros(tokens)
        self._errors = np.zeros(tokens)
        self._point: Point | None = None
        self._not_finite = np.zeros(2, np.int64)

    def add(self, start: int, found: HostArray) -> None:
        """Compare rows from position `start` on; each row's shape may differ, not its size."""
        found = found.reshape(len(found), -1)
        for first in range(0, len(found), self._step):
            b = found[first : first + self._step].astype(np.float64)
            rows = slice(start + first, start + first + len(b))
            a = self._expected[rows].astype(np.float64)
            is_finite = np.isfinite(a) & np.isfinite(b)
            self._not_finite += [np.sum(~np.isfinite(a)), np.sum(~np.isfinite(b))]

            error = np.abs(np.where(is_finite, a, 0) - np.where(is_finite, b, 0))
            sizes = self._sizes[rows]
            shares = _ratios(error, np.where(is_finite, np.abs(a), 0) + sizes[:, None])
            are_equal = (a == b) | (np.isnan(a) & np.isnan(b))
            shares[~is_finite & ~are_equal] = inf
            squares = (error**2).mean(1)
            errors = np.maximum(_ratios(np.sqrt(squares), sizes), shares.max(1) / OUTLIER)

            worst = int(errors.argmax())
            if errors[worst] > self._errors.max():
                column = int(shares[worst].argmax())
                at = (worst, column)
                self._point = Point(rows.start + worst, column, float(a[at]), float(b[at]))
            self._squares[rows], self._largest[rows] = squares, error.max(1)
            self._errors[rows] = errors

    def figures(self) -> Figures:
        return Figures(
            max_error=float(self._largest.max()),
            rms_error=sqrt(self._squares.mean()),
            rms=sqrt(self._reference.mean()),
            error=float(self._errors.max()),
            point=self._point,
            not_finite=(int(self._not_finite[0]), int(self._not_finite[1])),
            elements=self._expected.size,
            token_errors=self._errors,
        )


def total_relative(figures: list[Figures]) -> float:
    """Return the RMS error over all operators' elements, relative to their RMS."""
    if any(each.error == inf for each in figures):
        return inf
    squares = sum(each.rms_error**2 * each.elements for each in figures)
    return _ratio(sqrt(squares), sqrt(sum(each.rms**2 * each.elements for each in figures)))


def _ratios(errors: Doubles, sizes: Doubles) -> Doubles:
    """Divide errors by sizes; x / 0 is infinite, 0 / 0 is 0."""
    out = np.where(errors > 0, inf, 0.0)
    np.divide(errors, sizes, out=out, where=sizes > 0)
    return out


def _ratio(error: float, size: float) -> float:
    if size > 0:
        return error / size
    return inf if error > 0 else 0.0


def finite(number: float) -> float | None:
    """Return the number for JSON, which has no NaN and infinity: null instead."""
    return number if isfinite(number) else None


def _number_or_name(number: float) -> float | str:
    """Return the number for JSON; "nan" or "inf" as a string."""
    return number if isfinite(number) else str(number)
