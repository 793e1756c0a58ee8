"""What scheduling costs the host: a full house of sequences that write, and no model at all."""

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
    sequences: int
    schedule_seconds: float  # a step, median
    batch_seconds: float

    @property
    def seconds(self) -> float:
        return self.schedule_seconds + self.batch_seconds


def host_cost(sequences: int = 256, prompt: int = 512, steps: int = 400) -> HostCost:
    """Steps in which all sequences write one token, some of them needing another block."""
    scheduler = _full_house(sequences, prompt, steps)
    scheduled: list[float] = []
    built: list[float] = []
    for _ in range(steps):
        start = time.perf_counter()
        plan = scheduler.schedule()
        middle = time.perf_counter()
        build_plan_batch(plan, BLOCK_SIZE)
        built.append(time.perf_counter() - middle)
        scheduled.append(middle - start)
        _fly(scheduler, plan)
    return HostCost(sequences, median(scheduled), median(built))


def _full_house(sequences: int, prompt: int, steps: int) -> Scheduler:
    """All prompts read; their lengths differ, so that they need blocks at different times."""
    blocks = 3 * sequences * ((prompt + steps) // BLOCK_SIZE + 2)
    scheduler = Scheduler(PrefixCache(blocks, BLOCK_SIZE), 2 * sequences, sequences)
    for index in range(sequences):
        tokens = [index, *range(prompt + index % BLOCK_SIZE)]
        scheduler.add(Request(tokens, SamplingParams(), 10**9, 0, frozenset()))
    while scheduler.waiting or scheduler.prefills:
        _fly(scheduler, scheduler.schedule())
    return scheduler


def _fly(scheduler: Scheduler, plan: Plan) -> None:
    """What a pass does to those who took part."""
    scheduler.launched(plan)
    for request, *_ in plan.parts:
        if request.in_flight:
            request.append(Drawn(7, None))
            request.in_flight = 0
            scheduler.verify(request, len(request) - 1)
