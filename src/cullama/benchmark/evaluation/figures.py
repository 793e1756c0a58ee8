"""Means with their standard errors. Plain numbers; it runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt


@dataclass(frozen=True)
class Mean:
    """A mean, and its standard error: what it varies by from sample to sample.

    The error is the sample's standard deviation (over n − 1) divided by √n, as in
    lm-evaluation-harness; None for a single value.
    """

    value: float
    stderr: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        count = len(values)
        mean = fsum(values) / count
        if count == 1:
            return cls(mean, None)
        variance = fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, sqrt(variance / count))

    def __str__(self) -> str:
        spread = "" if self.stderr is None else f" ± {self.stderr:.4f}"
        return f"{self.value:.4f}{spread}"
