"""What the engine has done so far, and what each of its steps was. Numbers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import BlockPool
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


@dataclass
class Metrics:
    """Totals since the engine began."""

    submitted: int = 0  # sequences: each of a request's n
    ended: Counter[str] = field(default_factory=Counter)  # by finish reason
    steps: int = 0
    busy_seconds: float = 0.0  # in steps
    prompt_tokens: int = 0  # of the sequences that came in
    cached_tokens: int = 0  # of those, found in the prefix cache
    drawn_tokens: int = 0
    guessed_tokens: int = 0
    right_guesses: int = 0
    preemptions: int = 0

    @property
    def cache_hit_rate(self) -> float:
        """The share of prompt tokens that did not have to be read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def guesses_right(self) -> float:
        return self.right_guesses / self.guessed_tokens if self.guessed_tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ended": dict(self.ended),
            "cache_hit_rate": self.cache_hit_rate,
            "guesses_right": self.guesses_right,
        }


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
