"""Engines at work: requests submitted, run and checked by what the interface does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from cullama import LLM, SamplingParams, Stream
from cullama.engine.client import GenerationRequest
from cullama.engine.engine import Engine, EngineHandle
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord


def submit_to(
    engine: Engine, prompt: list[int], params: SamplingParams, priority: int = 0
) -> list[Request]:
    """Submit a request; returns the records of its n samples."""
    handles = engine.submit(GenerationRequest(prompt, params, priority))
    return [handle.request for handle in handles]


def tokens_of(engine: Engine, request: Request) -> Iterator[int]:
    """The tokens of a request as they are drawn; leaving the loop cancels it."""
    try:
        while True:
            new = engine.read(request)
            yield from new.token_ids
            if new.error is not None:
                raise new.error
            if new.finish_reason is not None:
                return
            engine.wait(request)
    finally:
        engine.cancel(request)


def request_of(stream: Stream) -> Request:
    handle = stream._sample.handle
    assert isinstance(handle, EngineHandle)
    return handle.request


WriteModel: TypeAlias = Callable[..., Path]
Ids: TypeAlias = list[int]
Open: TypeAlias = Callable[..., LLM]
BLOCK, CONTEXT, VOCABULARY, END = 32, 128, 300, 1
LONG = 4096  # tokens of context, where 128 are written too fast
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=24, seed=7, ignore_eos=True)
TEXTS = ["Once upon a time", "The old clock", "東京 and", "def add(", "🦙", "In the naïve"]


def ids(count: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).tolist()


def is_idle(engine: Engine) -> bool:
    return not engine.scheduler.has_work and engine.prefix_cache.pool.referenced == 0


def run(engine: Engine, *until: Request, most: int = 20_000) -> None:
    """Step until these have ended, or there is no work."""
    steps = 0
    while not all(one.is_finished for one in until) if until else engine.scheduler.has_work:
        engine.step()
        steps += 1
        assert steps < most, "it turns for ever"


def submit(llm: LLM, prompt: Ids, params: SamplingParams = GREEDY, priority: int = 0) -> Request:
    [request] = submit_to(llm.engine, prompt, params, priority)
    return request


def check_blocks(engine: Engine) -> None:
    """No block is lost, and no request writes to a block that another reads."""
    pool, size = engine.prefix_cache.pool, engine.prefix_cache.block_size
    running = engine.scheduler.running
    assert pool.free + pool.cached + pool.referenced == pool.count
    holders = Counter(block for one in running for block in one.blocks)
    assert [pool.ref_count(block) for block in range(pool.count)] == [
        holders[block] for block in range(pool.count)
    ]
    writable = [block for one in running for block in one.blocks[one.computed // size :]]
    assert all(holders[block] == 1 for block in writable)


class Ends:
    """How often, and how, each request told that it had ended."""

    def __init__(self) -> None:
        self.order: list[Request] = []

    def watch(self, request: Request) -> Request:
        def told() -> None:
            if request.is_finished:
                self.order.append(request)

        request.on_change = told
        return request

    def check(self, engine: Engine, submitted: list[Request]) -> None:
        assert Counter(map(id, self.order)) == Counter(map(id, submitted))
        assert all(one.is_finished and one.stage == "unscheduled" for one in submitted)
        reasons = Counter(one.finish_reason for one in submitted)
        assert engine.metrics.ended == reasons
        assert engine.metrics.submitted == len(submitted)
        assert is_idle(engine)


def check_records(engine: Engine, records: list[StepRecord], budget: int) -> None:
    metrics = engine.metrics
    for record in records:
        assert 0 < record.decodes + record.prefills <= record.tokens <= budget
        assert record.blocks_free + record.blocks_cached + record.blocks_referenced == (
            engine.prefix_cache.pool.count
        )
        assert record.seconds > 0
    assert [one.start for one in records] == sorted(one.start for one in records)
    assert len(records) == metrics.steps
    assert sum(record.drawn for record in records) == metrics.drawn_tokens
    assert sum(record.preemptions for record in records) == metrics.preemptions
    assert sum(record.cached_tokens for record in records) == metrics.cached_tokens
    assert sum(record.seconds for record in records) == pytest.approx(metrics.busy_seconds)
    assert sum(record.ended for record in records) <= metrics.ended.total()


REPETITIVE = [70, 71, 72, 73, 74, 75] * 6
