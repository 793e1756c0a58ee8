"""Random traffic: each request gets the tokens that it would have got alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from live import (
    BLOCK,
    CONTEXT,
    GREEDY,
    Ends,
    Open,
    check_blocks,
    check_records,
    ids,
    is_idle,
    submit_to,
)
from oracle import confirm, confirm_answer

from cullama import LLM, SamplingParams
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord


class Traffic:
    """Requests of all kinds that come, are left, sleep and wake, between steps of the engine."""

    def __init__(self, llm: LLM, seed: int) -> None:
        self.llm, self.engine = llm, llm.engine
        self.draw = random.Random(seed)
        self.ends = Ends()
        self.requests: list[Request] = []
        self.records: list[StepRecord] = []
        self.engine.observers.append(self.records.append)
        self.trunk = ids(60, seed)
        self.longest = self.engine.prefix_cache.pool.count * BLOCK

    def run(self, count: int) -> None:
        while len(self.requests) < count:
            action = self.draw.choice([self.come, self.step, self.step, self.step, self.leave])
            action()
            if self.requests and self.draw.random() < 0.5:
                self.wake(self.draw.choice(self.requests))
            check_blocks(self.engine)
        rounds = 0
        while not all(one.is_finished for one in self.requests):
            self.step()
            self.wake(*self.requests)
            check_blocks(self.engine)
            rounds += 1
            assert rounds < 5_000, "it turns for ever"

    def come(self) -> None:
        draw = self.draw
        tail = [draw.randint(3, 299) for _ in range(draw.randint(1, 30))]
        prompt = self.trunk[: draw.randint(0, 60)] + tail
        params = SamplingParams(
            max_tokens=draw.randint(1, min(24, CONTEXT - len(prompt), self.longest - len(prompt))),
            temperature=draw.choice([0, 0, 1.0]),
            seed=draw.randint(0, 99),
            n=draw.choice([1, 1, 1, 3]),
            speculation=draw.choice([0, 4]),
            ignore_eos=True,
        )
        priority = draw.choice([0, 0, 0, 1, -1])
        for request in submit_to(self.engine, prompt, params, priority):
            self.requests.append(self.ends.watch(request))

    def step(self) -> None:
        if self.engine.scheduler.has_work:
            self.engine.step()

    def leave(self) -> None:
        if self.requests and self.draw.random() < 0.3:
            self.engine.cancel(self.draw.choice(self.requests), "cancelled")

    def wake(self, *requests: Request) -> None:
        """Read what has been drawn."""
        for request in requests:
            self.engine.read(request)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "limits",
    [
        {"blocks": 64},
        {"blocks": 6},
        {"blocks": 4, "budget": 9, "max_running": 3},
        {"blocks": 12, "budget": 3, "max_running": 2},
        {"blocks": 9, "max_running": 6, "max_ahead": 3},
        {"blocks": 40, "budget": 33, "max_running": 20},
    ],
    ids=lambda limits: " ".join(f"{key} {value}" for key, value in limits.items()),
)
def test_each_request_gets_the_tokens_it_would_get_alone(
    open_llm: Open, cold: LLM, limits: dict[str, int], seed: int
) -> None:
    llm = open_llm(**limits)
    traffic = Traffic(llm, seed)
    traffic.run(count=20)
    for request in traffic.requests:
        confirm(cold, request)
        if request.finish_reason == "length":
            assert request.drawn == request.params.max_tokens
        else:
            assert request.finish_reason == "cancelled"
    traffic.ends.check(llm.engine, traffic.requests)
    check_records(llm.engine, traffic.records, limits.get("budget", 512))


def test_the_random_traffic_preempts_cancels_and_hits_the_cache(open_llm: Open) -> None:
    llm = open_llm(blocks=6)
    Traffic(llm, 0).run(count=60)
    metrics = llm.engine.metrics
    assert metrics.preemptions > 5
    assert metrics.cached_tokens > 100
    assert metrics.ended["cancelled"] > 2


def test_a_hundred_requests_complete_with_a_cache_for_two(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(blocks=4)
    prompts = [ids(40, seed) for seed in range(100)]
    completions = llm.generate(prompts, replace(GREEDY, max_tokens=6))
    assert [one.finish_reason for one in completions] == ["length"] * 100
    for prompt, one in zip(prompts, completions, strict=True):
        confirm_answer(cold, prompt, one.token_ids, GREEDY)
    assert is_idle(llm.engine)


def test_requests_that_outgrow_the_cache_together_are_preempted_in_turn(
    open_llm: Open, cold: LLM
) -> None:
    """All of them fit when they come in; only one does when it ends."""
    llm = open_llm(blocks=5)
    prompts = [ids(10, seed) for seed in range(5)]
    completions = llm.generate(prompts, replace(GREEDY, max_tokens=110))
    for prompt, one in zip(prompts, completions, strict=True):
        assert len(one.token_ids) == 110
        confirm_answer(cold, prompt, one.token_ids, GREEDY)
    assert llm.engine.metrics.preemptions > 2
