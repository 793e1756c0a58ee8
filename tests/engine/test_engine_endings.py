"""A request finishes once, in whichever way: length, stop, cancelling, closing, draining."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from concurrency import eventually, in_threads
from live import (
    BLOCK,
    CONTEXT,
    GREEDY,
    Ends,
    Open,
    check_blocks,
    ids,
    run,
    submit,
    submit_to,
    tokens_of,
)
from oracle import confirm

from cullama import LLM
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord
from cullama.errors import ClosedError, ContextLengthError


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_request_larger_than_the_cache_is_refused_at_once(open_llm: Open, blocks: int) -> None:
    llm = open_llm(blocks=blocks)
    room = blocks * BLOCK + 1  # the last token is not kept
    for prompt, answer in ((room, None), (room - 1, 2), (1, room), (CONTEXT, 1), (1, CONTEXT)):
        with pytest.raises(ContextLengthError):
            submit_to(llm.engine, [5] * prompt, replace(GREEDY, max_tokens=answer))
    assert llm.engine.metrics.submitted == 0
    fits = llm.generate([5] * (room - 2), replace(GREEDY, max_tokens=2))
    assert len(fits.token_ids) == 2
    assert len(llm.generate([5], replace(GREEDY, max_tokens=room - 1)).token_ids) == room - 1


def test_each_finish_reason_is_told_once(open_llm: Open) -> None:
    llm = open_llm()
    engine, ends = llm.engine, Ends()
    params = replace(GREEDY, max_tokens=3)
    length = ends.watch(submit(llm, ids(5), params))
    stop = ends.watch(submit(llm, ids(6), replace(params, stop_token_ids=tuple(range(300)))))
    cancelled = ends.watch(submit(llm, ids(7), params))
    engine.cancel(cancelled, "cancelled")
    run(engine)
    error = ends.watch(submit(llm, ids(8), params))
    llm.close()
    everyone = [length, stop, cancelled, error]
    assert [one.finish_reason for one in everyone] == ["length", "stop", "cancelled", "error"]
    ends.check(engine, everyone)


def test_a_finish_reason_cannot_be_changed(llm: LLM) -> None:
    ends = Ends()
    request = ends.watch(submit(llm, ids(5), replace(GREEDY, max_tokens=3)))
    run(llm.engine)
    for _ in range(3):
        llm.engine.cancel(request, "cancelled")
    assert request.finish_reason == "length"
    ends.check(llm.engine, [request])


def test_cancelling_twice_is_cancelling_once(llm: LLM) -> None:
    ends = Ends()
    request = ends.watch(submit(llm, ids(5)))
    llm.engine.step()
    for _ in range(3):
        llm.engine.cancel(request, "cancelled")
    ends.check(llm.engine, [request])
    assert request.drawn == 1


@pytest.mark.parametrize("stage", ["waiting", "prefill", "decode", "backpressured"])
def test_a_request_can_be_cancelled_at_every_stage(open_llm: Open, cold: LLM, stage: str) -> None:
    llm = open_llm(blocks=16, budget=20, max_running=1, max_ahead=4)
    ends = Ends()
    first = ends.watch(submit(llm, ids(100), replace(GREEDY, max_tokens=20)))
    second = ends.watch(submit(llm, ids(5, seed=1), replace(GREEDY, max_tokens=3)))
    doomed, other = (second, first) if stage == "waiting" else (first, second)
    for _ in range(200):
        llm.engine.step()
        if doomed.stage == stage:
            break
    assert doomed.stage == stage
    llm.engine.cancel(doomed, "cancelled")
    assert doomed.finish_reason == "cancelled"
    check_blocks(llm.engine)
    while not other.is_finished:
        llm.engine.step()
        llm.engine.read(other)
    ends.check(llm.engine, [first, second])
    confirm(cold, first)
    confirm(cold, second)


def test_a_request_can_be_cancelled_from_its_callback(llm: LLM, cold: LLM) -> None:
    """From within the step that tells it."""
    engine = llm.engine
    hasty, patient = submit(llm, ids(5)), submit(llm, ids(6))
    hasty.on_change = lambda: engine.cancel(hasty, "cancelled")
    run(engine)
    assert (hasty.finish_reason, hasty.drawn) == ("cancelled", 1)
    assert patient.finish_reason == "length"
    confirm(cold, patient)


def test_submits_and_cancels_during_a_step_are_done_after_it(llm: LLM, cold: LLM) -> None:
    engine = llm.engine
    more: list[Request] = []

    def ask(record: StepRecord) -> None:
        if len(more) < 5:
            more.append(submit(llm, ids(5, seed=len(more))))
            engine.cancel(more[0], "cancelled")

    engine.observers.append(ask)
    first = submit(llm, ids(9))
    run(engine)
    for request in (first, *more):
        confirm(cold, request)
    assert [one.finish_reason for one in more] == ["cancelled", *["length"] * 4]
    assert engine.metrics.ended.total() == engine.metrics.submitted == 6


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_closed_engine_refuses_requests_and_has_finished_all(
    open_llm: Open, has_thread: bool
) -> None:
    llm = open_llm(max_running=2)
    engine, ends = llm.engine, Ends()
    requests = [ends.watch(submit(llm, ids(5, n))) for n in range(5)]
    engine.step()
    if has_thread:
        engine.start()
    in_threads(engine.close)
    in_threads(engine.close)
    with pytest.raises(ClosedError):
        submit_to(engine, ids(5), GREEDY)
    with pytest.raises(ClosedError):
        engine.logits(ids(5))
    engine.step()
    engine.start()
    assert all(isinstance(s.error, ClosedError) for s in requests if s.finish_reason == "error")
    ends.check(engine, requests)


@pytest.mark.parametrize("has_thread", [False, True])
def test_draining_finishes_submitted_requests_and_refuses_new_ones(
    open_llm: Open, cold: LLM, has_thread: bool
) -> None:
    llm = open_llm(blocks=8, max_running=2)
    engine, ends, refused = llm.engine, Ends(), []

    def knock(record: StepRecord) -> None:
        if not engine._is_open:
            with pytest.raises(ClosedError):
                submit_to(engine, ids(5), GREEDY)
            refused.append(True)

    engine.observers.append(knock)
    requests = [ends.watch(submit(llm, ids(40, n))) for n in range(9)]
    if has_thread:
        engine.start()
    in_threads(engine.drain)
    assert [one.finish_reason for one in requests] == ["length"] * 9
    assert refused
    ends.check(engine, requests)
    for one in requests:
        confirm(cold, one)
    with pytest.raises(ClosedError):
        submit_to(engine, ids(5), GREEDY)
    in_threads(engine.drain)  # of nothing
    in_threads(engine.close)


@pytest.mark.parametrize("has_thread", [False, True])
def test_draining_waits_for_slow_readers(open_llm: Open, has_thread: bool) -> None:
    """A backpressured request has not finished: the rest is still to be read."""
    llm = open_llm(max_ahead=4)
    engine = llm.engine
    request = submit(llm, ids(5), replace(GREEDY, max_tokens=30))
    run(engine)
    assert request.stage == "backpressured"
    if has_thread:
        engine.start()

    def read_slowly() -> list[int]:
        tokens = []
        for token in tokens_of(engine, request):
            tokens.append(token)
            time.sleep(0.001)
        return tokens

    def drain() -> list[int]:
        engine.drain()
        assert request.is_finished
        return []

    [tokens, _] = in_threads(read_slowly, drain)
    assert len(tokens) == 30
    assert request.finish_reason == "length"


def test_closing_ends_a_drain_that_waits_for_a_reader(open_llm: Open) -> None:
    llm = open_llm(max_ahead=4)
    engine = llm.engine
    request = submit(llm, ids(5), replace(GREEDY, max_tokens=30))

    def close() -> None:
        assert eventually(lambda: request.stage == "backpressured")
        engine.close()

    in_threads(engine.drain, close)
    assert isinstance(request.error, ClosedError)
    assert engine.metrics.ended == {"error": 1}
