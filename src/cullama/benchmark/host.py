"""Time the scheduler and the batch builder alone, with many decoding sequences and no model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from ..engine.prefix_cache import PrefixCache
from ..engine.request import Request
from ..engine.runner import build_plan_batch
from ..engine.scheduler import Plan, Scheduler
from ..sampling.draw import Drawn
from ..sampling.params import SamplingParams

BLOCK_SIZE = 32


@dataclass(frozen=True)
class HostCost:
    """Host time of one step."""

    sequences: int
    schedule_seconds: float  # median
    batch_seconds: float  # median

    @property
    def seconds(self) -> float:
        return self.schedule_seconds + self.batch_seconds


def host_cost(sequences: int = 256, prompt: int = 512, steps: int = 400) -> HostCost:
    """Time steps in which all sequences decode one token, and some need another block."""
    scheduler = _decoding_scheduler(sequences, prompt, steps)
    scheduled: list[float] = []
    built: list[float] = []
    for _ in range(steps):
        start = time.perf_counter()
        plan = scheduler.schedule()
        middle = time.perf_counter()
        build_plan_batch(plan, BLOCK_SIZE)
        built.append(time.perf_counter() - middle)
        scheduled.append(middle - start)
        _run_pass(scheduler, plan)
    return HostCost(sequences, median(scheduled), median(built))


def _decoding_scheduler(sequences: int, prompt: int, steps: int) -> Scheduler:
    """Return a scheduler whose sequences are all past prefill, and of different lengths.

    Their lengths differ so that they need new blocks in different steps.
    """
    blocks = 3 * sequences * ((prompt + steps) // BLOCK_SIZE + 2)
    scheduler = Scheduler(PrefixCache(blocks, BLOCK_SIZE), 2 * sequences, sequences)
    for index in range(sequences):
        tokens = [index, *range(prompt + index % BLOCK_SIZE)]
        scheduler.add(Request(tokens, SamplingParams(), 10**9, 0, frozenset()))
    while scheduler.waiting or scheduler.prefills:
        _run_pass(scheduler, scheduler.schedule())
    return scheduler


def _run_pass(scheduler: Scheduler, plan: Plan) -> None:
    """Give the scheduler the results of a pass, without a model."""
    scheduler.mark_launched(plan)
    for request, *_ in plan.parts:
        if request.in_flight:
            request.append(Drawn(7, None))
            request.in_flight = 0
            scheduler.mark_shareable(request, len(request) - 1)
