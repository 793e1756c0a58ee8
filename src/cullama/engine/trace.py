"""What each step of the engine was: who took part, how long it took, how full the cache was."""

from __future__ import annotations

from dataclasses import dataclass

from .blocks import BlockPool
from .metrics import Metrics
from .scheduler import Plan


@dataclass(frozen=True)
class StepRecord:
    """One pass of the model."""

    start: float  # seconds, of time.perf_counter
    seconds: float  # scheduling, the pass, and taking its tokens in
    writing: int  # sequences that took part with their newest token
    reading: int  # sequences that took part with some of their prompt
    tokens: int  # that went through the model
    drawn: int  # tokens that came out
    waiting: int  # sequences for which there was no room
    blocks_free: int
    blocks_kept: int  # held by nobody; what is in them can be found
    blocks_held: int
    preemptions: int  # in this step
    cached_tokens: int  # found in the prefix cache by those who came in
    ended: int


class StepWatch:
    """Follows one step: what it planned, and by how much the totals have changed at its end."""

    def __init__(self, metrics: Metrics, pool: BlockPool) -> None:
        self._metrics, self._pool = metrics, pool
        self._before = self._totals()

    def note(self, plan: Plan, waiting: int) -> None:
        self._writing, self._reading = len(plan.writers), len(plan.readers)
        self._tokens, self._waiting = plan.tokens, waiting

    def record(self, start: float, seconds: float) -> StepRecord:
        drawn, preemptions, cached, ended = (
            after - before for before, after in zip(self._before, self._totals(), strict=True)
        )
        return StepRecord(
            start=start,
            seconds=seconds,
            writing=self._writing,
            reading=self._reading,
            tokens=self._tokens,
            drawn=drawn,
            waiting=self._waiting,
            blocks_free=self._pool.free,
            blocks_kept=self._pool.kept,
            blocks_held=self._pool.held,
            preemptions=preemptions,
            cached_tokens=cached,
            ended=ended,
        )

    def _totals(self) -> tuple[int, int, int, int]:
        metrics = self._metrics
        ended = sum(metrics.ended.values())
        return metrics.drawn_tokens, metrics.preemptions, metrics.cached_tokens, ended
