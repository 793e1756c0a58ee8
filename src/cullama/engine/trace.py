"""Records each step of the engine: what took part, how long it took, how full the cache was.

It only looks: with no observers, no step is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from .blocks import BlockPool
from .metrics import Metrics
from .scheduler import Plan


@dataclass(frozen=True)
class StepRecord:
    """One step: the pass that it launched, and the outputs of the pass that it read.

    On the CPU both are the same pass; where passes run asynchronously, the outputs are mostly of
    the pass that the step before launched.
    """

    start: float  # seconds, of time.perf_counter
    seconds: float  # scheduling, launching, waiting for outputs and processing them
    decodes: int  # requests that took part with their newest token
    prefills: int  # requests that took part with some of their prompt
    tokens: int  # that went through the model
    prefill_tokens: int  # of those, tokens of prefills
    context_tokens: int  # in the cache behind the pass, of the requests that took part
    attended_tokens: int  # that its tokens attended to, each for itself
    drawn: int  # tokens that came out
    waiting: int  # requests that were not admitted
    blocks_free: int
    blocks_cached: int  # of no request; what they hold can be found
    blocks_referenced: int
    preemptions: int  # in this step
    cached_tokens: int  # of the prompts admitted
    ended: int  # requests


class StepWatch:
    """Follows one step: by how much the totals have grown at its end."""

    def __init__(self, metrics: Metrics, pool: BlockPool) -> None:
        self._metrics, self._pool = metrics, pool
        self._before = self._totals()

    def record(self, plan: Plan, waiting: int, start: float, seconds: float) -> StepRecord:
        drawn, preemptions, cached_tokens, ended = (
            after - before for before, after in zip(self._before, self._totals(), strict=True)
        )
        # One that has finished has given its blocks back: all but its last token were there.
        contexts = [
            (tokens, request.computed or len(request) - 1) for request, tokens, _ in plan.parts
        ]
        return StepRecord(
            start=start,
            seconds=seconds,
            decodes=len(plan.decodes),
            prefills=len(plan.prefills),
            tokens=plan.tokens,
            prefill_tokens=sum(tokens for _, tokens, _ in plan.prefills),
            context_tokens=sum(length for _, length in contexts),
            attended_tokens=sum(count * (length - count // 2) for count, length in contexts),
            drawn=drawn,
            waiting=waiting,
            blocks_free=self._pool.free,
            blocks_cached=self._pool.cached,
            blocks_referenced=self._pool.referenced,
            preemptions=preemptions,
            cached_tokens=cached_tokens,
            ended=ended,
        )

    def _totals(self) -> tuple[int, int, int, int]:
        metrics = self._metrics
        ended = sum(metrics.ended.values())
        return metrics.drawn_tokens, metrics.preemptions, metrics.cached_tokens, ended
