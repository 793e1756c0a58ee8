"""Priorities: a head start in the queue, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from live import DRAWN, GREEDY, TEXTS, Ends, Open, ids, run, submit
from oracle import confirm

from cullama import LLM, SamplingParams
from cullama.errors import UsageError


def ends_in_order(llm: LLM, asked: list[tuple[int, SamplingParams]]) -> list[int]:
    """Indices of requests of these priorities, in the order in which they end."""
    ends = Ends()
    requests = [
        ends.watch(submit(llm, ids(5, index), params, priority))
        for index, (priority, params) in enumerate(asked)
    ]
    run(llm.engine)
    ends.check(llm.engine, requests)
    return [requests.index(one) for one in ends.order]


def test_without_priorities_requests_are_served_in_order_of_arrival(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    assert ends_in_order(llm, [(0, GREEDY)] * 10) == list(range(10))


def test_higher_priorities_are_served_first(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    priorities = [0, -1, 1, 2, 0, 1]
    assert ends_in_order(llm, [(p, GREEDY) for p in priorities]) == [3, 2, 5, 0, 4, 1]


def test_an_urgent_request_preempts_a_running_one(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(max_running=1)
    engine, ends = llm.engine, Ends()
    first = ends.watch(submit(llm, ids(5), replace(GREEDY, max_tokens=40)))
    second = ends.watch(submit(llm, ids(6), replace(GREEDY, max_tokens=5)))
    for _ in range(10):
        engine.step()
    urgent = ends.watch(submit(llm, ids(7), replace(GREEDY, max_tokens=5), priority=1))
    run(engine)
    assert ends.order == [urgent, first, second]
    for one in ends.order:
        confirm(cold, one)
    assert engine.metrics.preemptions == 1


@pytest.mark.parametrize("priority", [1, 2])
def test_a_priority_is_a_head_start_and_no_more(open_llm: Open, priority: int) -> None:
    """However many come behind it, a request waits for no more than so many of them."""
    llm = open_llm(max_running=1)
    params = replace(GREEDY, max_tokens=1)
    order = ends_in_order(llm, [(0, params), *[(priority, params)] * 150])
    assert order.index(0) == 64 * priority - 1


def test_no_request_starves_while_urgent_ones_keep_coming(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    engine = llm.engine
    patient = submit(llm, ids(5), replace(GREEDY, max_tokens=3))
    came = 0
    while not patient.is_finished:
        submit(llm, ids(5, came), replace(GREEDY, max_tokens=1), priority=1)
        engine.step()
        came += 1
        assert came < 100
    for request in list(engine.scheduler.waiting):
        engine.cancel(request, "cancelled")


@pytest.mark.parametrize("priority", [None, 1.0, "1", True, 10**7, -(10**7)])
def test_an_invalid_priority_is_refused(llm: LLM, priority: Any) -> None:
    for call in (llm.generate, llm.stream):
        with pytest.raises(UsageError, match="priority is"):
            call(TEXTS[0], DRAWN, priority=priority)
