"""Passes that fail, NaN, and Ctrl-C: only those at fault finish with an error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from concurrency import in_a_loop, in_threads, read
from live import (
    DRAWN,
    GREEDY,
    REPETITIVE,
    TEXTS,
    Ends,
    Open,
    check_blocks,
    check_records,
    ids,
    run,
    submit,
    tokens_of,
)
from oracle import confirm

from cullama import LLM
from cullama.engine.trace import StepRecord
from cullama.errors import NumericalError
from cullama.sampling.draw import Drawn


class BrokenError(RuntimeError):
    pass


def break_passes_with(llm: LLM, monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    """Every pass that this token goes through fails, after it has written to the cache."""
    runner = llm.engine.runner
    forward = runner.forward

    def broken(batch: Any) -> Any:
        logits = forward(batch)
        if token in batch.tokens:
            raise BrokenError("no such token")
        return logits

    monkeypatch.setattr(runner, "forward", broken)


@pytest.mark.parametrize("seed", range(5))
def test_a_failing_pass_ends_only_the_requests_that_make_it_fail(
    open_llm: Open, cold: LLM, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    llm = open_llm(blocks=8, budget=40, max_running=6)
    engine, draw, ends = llm.engine, random.Random(seed), Ends()
    break_passes_with(llm, monkeypatch, 299)
    trunk = [token for token in ids(50, seed) if token != 299]
    requests = []
    for number in range(20):
        guilty = [299] if number % 4 == 0 else []
        prompt = trunk[: draw.randint(0, 48)] + guilty + [draw.randint(3, 298)]
        params = replace(GREEDY, max_tokens=draw.randint(1, 10), logit_bias={299: -1000.0})
        requests.append(ends.watch(submit(llm, prompt, params)))
        engine.step()
        check_blocks(engine)
    run(engine)
    ends.check(engine, requests)
    for number, one in enumerate(requests):
        is_guilty = number % 4 == 0
        assert one.finish_reason == ("error" if is_guilty else "length")
        assert isinstance(one.error, BrokenError) == is_guilty
        if not is_guilty:
            confirm(cold, one)


def test_nan_logits_end_one_request_of_many(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was a draft that led there: what came before is right, and is counted."""
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    ops = llm.engine.runner.ops
    sample = ops.sample
    params = replace(GREEDY, max_tokens=30, speculation=5, logit_bias={70: 1000.0})
    doomed, verified = submit(llm, [70] * 10, params), submit(llm, ids(9))

    def damaged(logits: Any, draws: Any) -> Callable[[], list[Drawn | NumericalError]]:
        drawn = [
            NumericalError("NaN") if draw.tokens[:10] == [70] * 10 and draw.position == 12 else one
            for one, draw in zip(sample(logits, draws)(), draws, strict=True)
        ]
        return lambda: drawn

    monkeypatch.setattr(ops, "sample", damaged)
    run(llm.engine)
    assert isinstance(doomed.error, NumericalError)
    assert doomed.answer == [70] * 12
    assert verified.finish_reason == "length"
    confirm(cold, verified)
    assert llm.engine.metrics.drawn_tokens == 12 + verified.drawn
    check_records(llm.engine, records, budget=512)
    with pytest.raises(NumericalError):
        list(tokens_of(llm.engine, doomed))


def test_ctrl_c_in_a_step_leaves_an_engine_that_works(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = llm.engine.runner
    forward, interrupts = runner.forward, [KeyboardInterrupt()]

    def interrupted(batch: Any) -> Any:
        logits = forward(batch)
        if interrupts and llm.engine.metrics.steps == 3:
            raise interrupts.pop()
        return logits

    monkeypatch.setattr(runner, "forward", interrupted)
    params = replace(GREEDY, max_tokens=20, speculation=4)
    requests = [submit(llm, prompt, params) for prompt in (ids(9), REPETITIVE, [70] * 9)]
    with pytest.raises(KeyboardInterrupt):
        run(llm.engine)
    run(llm.engine)
    for one in requests:
        assert one.finish_reason == "length"
        confirm(cold, one)


def test_ctrl_c_between_two_steps_leaves_an_engine_that_works(llm: LLM, cold: LLM) -> None:
    """Ctrl-C may fall into the telling of an end just as well."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    first, other = submit(llm, ids(5)), submit(llm, ids(6))
    llm.engine.step()
    first.on_change = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.engine.cancel(first, "cancelled")
    in_threads(lambda: run(llm.engine))
    assert other.finish_reason == "length"
    confirm(cold, other)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_engine_thread_ends_the_requests_that_wait(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own in the engine's thread must be raised where requests are awaited."""
    schedule, failures = llm.engine.scheduler.schedule, [BrokenError("our own mistake")]

    def broken() -> Any:
        if failures:
            raise failures.pop()
        return schedule()

    monkeypatch.setattr(llm.engine.scheduler, "schedule", broken)

    async def main() -> list[Any]:
        streams = [llm.stream(text, DRAWN) for text in TEXTS]
        return await asyncio.gather(*map(read, streams), return_exceptions=True)

    assert all(isinstance(one, str | BrokenError) for one in in_a_loop(main))
    assert in_threads(lambda: llm.generate(TEXTS[0], DRAWN).finish_reason) == ["length"]


@pytest.mark.parametrize("where", ["copy_blocks", "upload_batch", "sample"])
def test_a_step_cut_short_by_ctrl_c_is_done_again(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever it is cut: what it was about to copy, compute and draw comes with the next step."""
    first = submit(llm, ids(40))
    run(llm.engine)
    again = submit(llm, [*ids(40), *first.answer[:3], 5])  # begins with a copy
    ops, cuts = llm.engine.runner.ops, [0]
    whole = getattr(ops, where)

    def cut_short(*arguments: Any) -> Any:
        cuts[0] += 1
        if cuts[0] == 1:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(ops, where, cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(llm.engine)
    llm.logits(ids(60))  # may take blocks from which a copy is still to be made
    run(llm.engine)
    assert again.finish_reason == "length"
    assert llm.engine.metrics.cached_tokens > 32
    confirm(cold, again)


@pytest.mark.parametrize("cut", [(1, 4), (2, 12), (11, 13)])  # the last draw, too
def test_a_draw_cut_short_by_ctrl_c_is_drawn_again(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch, cut: tuple[int, int]
) -> None:
    request = submit(llm, ids(9))
    ops = llm.engine.runner.ops
    download, cuts = ops.download, [0]

    def cut_short(array: Any) -> Any:
        cuts[0] += 1
        if cuts[0] in cut:
            raise KeyboardInterrupt
        return download(array)

    monkeypatch.setattr(ops, "download", cut_short)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(llm.engine)
    run(llm.engine)
    assert request.finish_reason == "length"
    confirm(cold, request)


def test_ctrl_c_between_launch_and_read_loses_no_token(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [submit(llm, prompt) for prompt in (ids(9), ids(5))]
    scheduler = llm.engine.scheduler
    launched, interrupts = scheduler.mark_launched, [KeyboardInterrupt()]

    def interrupted(plan: Any) -> None:
        launched(plan)
        if interrupts and llm.engine.metrics.steps == 3:
            raise interrupts.pop()

    monkeypatch.setattr(scheduler, "mark_launched", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(llm.engine)
    run(llm.engine)
    for request in requests:
        assert request.finish_reason == "length"
        confirm(cold, request)
