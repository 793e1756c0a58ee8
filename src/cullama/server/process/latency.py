"""Measures what requests wait for, as their clients see it: counts in buckets, no texts.

Each observation is one addition: a histogram of a library costs several microseconds, and some come
with every token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# Seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Buckets:
    """Counts values by upper bound, as Prometheus' histograms do."""

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds, self.total = bounds, 0.0
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def cumulative(self) -> list[tuple[str, int]]:
        """The number of values up to each bound; the last one counts all."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))


@dataclass
class Times:
    """When what happened to one sample, by time.monotonic()."""

    submitted: float
    admitted: float = 0.0  # to a pass; 0: not yet
    first_token: float = 0.0
    last_token: float = 0.0


class Latency:
    """All samples' latencies, in seconds."""

    def __init__(self) -> None:
        self.queue, self.first_token = Buckets(), Buckets()
        self.between_tokens, self.whole = Buckets(), Buckets()

    def admitted(self, times: Times, now: float) -> None:
        """Note the first pass that a sample took part in; later ones change nothing."""
        if not times.admitted:
            times.admitted = max(times.submitted, now)
            self.queue.add(times.admitted - times.submitted)

    def tokens(self, times: Times, count: int, now: float) -> None:
        """Note that so many tokens came; of several that came together, each has its share."""
        if not times.first_token:
            times.first_token = now
            self.first_token.add(now - times.submitted)
            count -= 1
        elif count:
            self.between_tokens.add((now - times.last_token) / count, count)
        times.last_token = now

    def ended(self, times: Times, now: float) -> None:
        self.whole.add(now - times.submitted)
