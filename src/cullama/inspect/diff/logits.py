"""Compares two sides' logits: divergence of the distributions, changes of the likeliest token.

It takes rows as a run yields them; it runs no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files.tensor import HostArray
from ..divergence import kl_divergence, log_softmax
from .figures import MAX_WIDENED, Doubles, finite

Integers = NDArray[np.int64]


class TopChange(NamedTuple):
    """A position after which the sides' likeliest tokens differ."""

    position: int
    expected: int  # token id
    found: int
    margin: float  # by how much the expected token leads the next, in logits


@dataclass(frozen=True, eq=False)
class LogitFigures:
    """Figures of each position, [T]; NaN where logits of either side are NaN or infinite."""

    divergence: Doubles  # KL(expected ‖ found) in nats
    max_error: Doubles
    expected: Integers  # likeliest token of the first side
    found: Integers  # and of the second
    margin: Doubles  # by which the first side's likeliest token leads its second likeliest

    @property
    def turns(self) -> list[TopChange]:
        """Positions after which greedy decoding takes different tokens."""
        return [
            TopChange(int(i), int(self.expected[i]), int(self.found[i]), float(self.margin[i]))
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
            "max_error": finite(float(self.max_error.max())),
            "mean_divergence": finite(float(self.divergence.mean())),
            "max_divergence": finite(float(self.divergence.max())),
            "top1_agreement": self.agreement,
            "turns": [{**t._asdict(), "margin": finite(t.margin)} for t in self.turns],
            "positions": {
                "divergence": [finite(value) for value in self.divergence.tolist()],
                "max_error": [finite(value) for value in self.max_error.tolist()],
                "expected": self.expected.tolist(),
                "found": self.found.tolist(),
                "margin": [finite(value) for value in self.margin.tolist()],
            },
        }


class LogitGap:
    """Accumulates `LogitFigures` from rows of the second side's logits."""

    def __init__(self, expected: HostArray) -> None:
        """`expected`: the first side's logits, [T, V]."""
        tokens = len(expected)
        self._rows = expected
        self._divergence, self._max_error = np.zeros(tokens), np.zeros(tokens)
        self._margin = np.zeros(tokens)
        self._expected, self._found = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)

    def add(self, start: int, found: HostArray) -> None:
        """Compare rows of logits, from position `start` on."""
        step = max(1, MAX_WIDENED // found.shape[1])
        for first in range(0, len(found), step):
            b = found[first : first + step].astype(np.float64)
            rows = slice(start + first, start + first + len(b))
            a = self._rows[rows].astype(np.float64)
            with np.errstate(invalid="ignore"):
                self._divergence[rows] = kl_divergence(log_softmax(a), log_softmax(b))
                self._max_error[rows] = np.abs(a - b).max(1)
                best = np.partition(a, -2, axis=1)[:, -2:] if a.shape[1] > 1 else a
                self._margin[rows] = best[:, -1] - best[:, 0]
            self._expected[rows], self._found[rows] = a.argmax(1), b.argmax(1)

    def figures(self) -> LogitFigures:
        return LogitFigures(
            self._divergence, self._max_error, self._expected, self._found, self._margin
        )
