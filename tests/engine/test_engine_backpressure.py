"""Full queues refuse requests, and requests with too many unread tokens pause."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from concurrency import eventually, in_a_loop, in_threads, read
from live import DRAWN, GREEDY, TEXTS, Open, ids, is_idle, run, submit, tokens_of
from oracle import confirm, confirm_answer

from cullama import LLM
from cullama.engine.request import Request
from cullama.errors import QueueFullError


def test_a_request_beyond_the_queue_limit_is_refused(llm: LLM, cold: LLM) -> None:
    engine = llm.engine
    engine.max_waiting = 4
    requests = [submit(llm, ids(5, n)) for n in range(4)]
    for _ in range(3):
        with pytest.raises(QueueFullError, match="4 requests are waiting"):
            submit(llm, ids(5))
    engine.step()
    requests.append(submit(llm, ids(5, 9)))  # those before it have been let in
    run(engine)
    assert [one.finish_reason for one in requests] == ["length"] * 5
    for one in requests:
        confirm(cold, one)
    assert engine.metrics.submitted == 5


def test_a_full_queue_refuses_generate_and_stream(llm: LLM) -> None:
    llm.engine.max_waiting = 0
    for call in (llm.generate, llm.stream):
        with pytest.raises(QueueFullError):
            call(TEXTS[0], DRAWN)
    assert is_idle(llm.engine)
    llm.engine.max_waiting = None
    assert llm.generate(TEXTS[0], DRAWN).text


def test_concurrent_submits_do_not_overfill_the_queue(llm: LLM) -> None:
    llm.engine.max_waiting = 5

    def knock() -> Request | None:
        try:
            return submit(llm, ids(5))
        except QueueFullError:
            return None

    came = [one for one in in_threads(*[knock] * 30) if one is not None]
    assert len(came) == 5
    run(llm.engine)
    assert [one.finish_reason for one in came] == ["length"] * 5


def test_ten_times_too_many_requests_are_each_answered_or_refused(open_llm: Open) -> None:
    llm = open_llm(blocks=8, max_running=4)
    engine = llm.engine
    engine.max_waiting = 6

    async def visit(seed: int) -> str:
        try:
            await read(llm.stream(ids(20, seed), GREEDY))
        except QueueFullError:
            return "full"
        return "answered"

    async def main() -> list[str]:
        return await asyncio.gather(*(visit(seed) for seed in range(100)))

    ends = Counter(in_a_loop(main))
    assert ends["full"] > 10
    assert ends["answered"] == 100 - ends["full"] >= 6
    assert engine.metrics.ended == {"length": ends["answered"]}
    assert eventually(lambda: is_idle(engine))


def test_an_unread_request_is_backpressured_while_others_go_on(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(max_ahead=8)
    params = replace(GREEDY, max_tokens=40)
    asleep = submit(llm, ids(5), params)
    awake = submit(llm, ids(6), params)
    while not awake.is_finished:
        llm.engine.step()
        llm.engine.read(awake)
    assert (asleep.stage, asleep.drawn) == ("backpressured", 8)
    assert not llm.engine.scheduler.has_work
    assert llm.engine.read(asleep).token_ids == asleep.answer
    assert asleep.stage == "decode"
    while not asleep.is_finished:
        llm.engine.step()
        llm.engine.read(asleep)
    confirm(cold, asleep)
    confirm(cold, awake)


def test_speculation_does_not_run_away_from_a_reader(open_llm: Open) -> None:
    llm = open_llm(max_ahead=8)
    params = replace(GREEDY, max_tokens=60, speculation=10, logit_bias={70: 1000.0})
    request = submit(llm, [70] * 10, params)
    run(llm.engine)
    assert request.stage == "backpressured"
    assert 8 <= request.drawn < 8 + 11
    assert list(tokens_of(llm.engine, request)) == [70] * 60


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_reader_that_resumes_gets_the_rest(open_llm: Open, cold: LLM, has_thread: bool) -> None:
    llm = open_llm(max_ahead=8)
    engine = llm.engine
    if has_thread:
        engine.start()
    request = submit(llm, ids(5), replace(GREEDY, max_tokens=60))
    if not has_thread:
        run(engine)
    assert eventually(lambda: request.stage == "backpressured")
    assert request.drawn == 8
    [tokens] = in_threads(lambda: list(tokens_of(engine, request)))
    assert len(tokens) == 60
    assert request.finish_reason == "length"
    confirm(cold, request)


def test_slow_async_readers_get_all_tokens(open_llm: Open) -> None:
    llm = open_llm(max_ahead=3)
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def read_slowly(text: str) -> str:
        pieces = []
        async for piece in llm.stream(text, DRAWN):
            pieces.append(piece)
            await asyncio.sleep(0.002 * (len(pieces) % 3 == 0))
        return "".join(pieces)

    async def main() -> list[str]:
        return await asyncio.gather(*map(read_slowly, TEXTS))

    assert in_a_loop(main) == expected


def test_a_backpressured_request_is_preempted_first(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(blocks=4, max_ahead=8)
    engine = llm.engine
    sleeper = submit(llm, ids(70), replace(GREEDY, max_tokens=40))
    run(engine)
    assert (sleeper.stage, len(sleeper.blocks)) == ("backpressured", 3)
    other = llm.generate(ids(90, seed=1), replace(GREEDY, max_tokens=30))
    assert len(other.token_ids) == 30
    assert engine.metrics.preemptions == 1
    assert sleeper.stage == "waiting"
    assert not engine.scheduler.has_work  # not computed again before it is read
    assert len(list(tokens_of(engine, sleeper))) == 40
    confirm(cold, sleeper)
    confirm_answer(cold, ids(90, seed=1), other.token_ids, GREEDY)


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_preempted_backpressured_request_resumes_when_it_is_read(
    open_llm: Open, has_thread: bool
) -> None:
    llm = open_llm(blocks=4, max_ahead=8)
    engine = llm.engine
    sleeper = submit(llm, ids(70), replace(GREEDY, max_tokens=40))
    run(engine)
    llm.generate(ids(90, seed=1), replace(GREEDY, max_tokens=30))
    assert sleeper.stage == "waiting"
    if has_thread:
        engine.start()
    [tokens] = in_threads(lambda: list(tokens_of(engine, sleeper)))
    assert len(tokens) == 40


class StepsWhileRead(list[int]):
    """Tokens of a request; the engine takes a step in the middle of the next look at them."""

    step: Callable[[], None] | None = None
    is_before = True

    def __getitem__(self, index: Any) -> Any:
        step, self.step = self.step, None
        if step and self.is_before:
            step()
        found = super().__getitem__(index)
        if step and not self.is_before:
            step()
        return found


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("ready", [6, 7, 8])
def test_a_read_at_the_moment_of_backpressure_resumes_the_request(
    open_llm: Open, is_before: bool, ready: int
) -> None:
    """Threads may change places anywhere: here, in the middle of taking tokens."""
    llm = open_llm(max_ahead=8)
    engine = llm.engine
    request = submit(llm, ids(5), replace(GREEDY, max_tokens=40))
    request.tokens = tokens = StepsWhileRead(request.tokens)
    for _ in range(ready):
        engine.step()
    tokens.step, tokens.is_before = engine.step, is_before
    delivered = list(engine.read(request).token_ids)
    for _ in range(200):
        if request.is_finished:
            break
        assert engine.scheduler.has_work, "it sleeps while a token is waited for"
        engine.step()
        delivered += engine.read(request).token_ids
    assert delivered == request.answer
    assert len(delivered) == 40
