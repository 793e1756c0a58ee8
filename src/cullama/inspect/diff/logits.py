"""How far two predictions lie apart: what a difference means for the tokens drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files.tensor import HostArray
from ..divergence import log_softmax
from .figures import BLOCK, Doubles

Integers = NDArray[np.int64]


class Turn(NamedTuple):
    """A position behind which the two sides would write different tokens."""

    position: int
    expected: int  # token id
    found: int
    margin: float  # by how much the expected token leads the next, in logits


@dataclass(frozen=True, eq=False)
class LogitFigures:
    """Of each position, [T]; NaN where the logits of a side hold what is no number."""

    divergence: Doubles  # Kullback-Leibler, of what was found from what was expected, in nats
    max_error: Doubles
    expected: Integers  # the likeliest token
    found: Integers
    margin: Doubles  # between the two likeliest that were expected

    @property
    def turns(self) -> list[Turn]:
        """Where greedy tokens part."""
        return [
            Turn(int(i), int(self.expected[i]), int(self.found[i]), float(self.margin[i]))
            for i in np.flatnonzero(self.expected != self.found)
        ]

    @property
    def agreement(self) -> float:
        """The share of positions whose likeliest token is the same."""
        return float(np.mean(self.expected == self.found))

    @property
    def are_numbers(self) -> bool:
        return bool(np.isfinite(self.divergence).all())

    def as_json(self) -> dict[str, Any]:
        return {
            "max_error": _finite(float(self.max_error.max())),
            "mean_divergence": _finite(float(self.divergence.mean())),
            "max_divergence": _finite(float(self.divergence.max())),
            "top1_agreement": self.agreement,
            "turns": [{**t._asdict(), "margin": _finite(t.margin)} for t in self.turns],
            "positions": {
                "divergence": [_finite(value) for value in self.divergence.tolist()],
                "max_error": [_finite(value) for value in self.max_error.tolist()],
                "expected": self.expected.tolist(),
                "found": self.found.tolist(),
                "margin": [_finite(value) for value in self.margin.tolist()],
            },
        }


class LogitGap:
    """Takes rows of logits in, a few at a time."""

    def __init__(self, expected: HostArray) -> None:
        """`expected`: [T, V]."""
        tokens = len(expected)
        self._rows = expected
        self._divergence, self._max_error = np.zeros(tokens), np.zeros(tokens)
        self._margin = np.zeros(tokens)
        self._expected, self._found = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)

    def add(self, start: int, found: HostArray) -> None:
        """Rows from position `start` on."""
        step = max(1, BLOCK // found.shape[1])
        for first in range(0, len(found), step):
            b = found[first : first + step].astype(np.float64)
            rows = slice(start + first, start + first + len(b))
            self._add(rows, self._rows[rows].astype(np.float64), b)

    def _add(self, rows: slice, a: Doubles, b: Doubles) -> None:
        with np.errstate(invalid="ignore"):
            p, q = log_softmax(a), log_softmax(b)
            # Rounding may leave a little less than nothing.
            self._divergence[rows] = np.maximum((np.exp(p) * (p - q)).sum(1), 0)
            self._max_error[rows] = np.abs(a - b).max(1)
            best = np.partition(a, -2, axis=1)[:, -2:] if a.shape[1] > 1 else a
            self._margin[rows] = best[:, -1] - best[:, 0]
        self._expected[rows], self._found[rows] = a.argmax(1), b.argmax(1)

    def figures(self) -> LogitFigures:
        return LogitFigures(
            self._divergence, self._max_error, self._expected, self._found, self._margin
        )


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None
