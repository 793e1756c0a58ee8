"""A device that goes on by itself: the next pass is made ready meanwhile, and no text changes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device import Device
from live import submit_to

from cullama import LLM, SamplingParams
from cullama.errors import ClosedError, NumericalError

PARAMS = SamplingParams(max_tokens=20, seed=5, ignore_eos=True)
LONG = 10  # seconds: what takes so long has come to a halt


@pytest.fixture
def make(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LLM]]:
    """Models on a device, with an engine of some size; everything is given back in the end."""
    made: list[LLM] = []

    def make(
        *, budget: int = 512, running: int = 256, cache_tokens: int | None = None, **options: Any
    ) -> LLM:
        with monkeypatch.context() as patch:
            patch.setattr("cullama.llm.operators_for", lambda *arguments: Device())
            patch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
            patch.setattr("cullama.engine.engine.MAX_RUNNING", running)
            model = options.get("model", tiny_model)
            made.append(LLM(model, backend="cpu:numpy", cache_tokens=cache_tokens))
        return made[-1]

    yield make
    for llm in made:
        if llm._engine is not None:
            while llm.engine.has_work:
                llm.engine.step()
            assert llm.engine.prefix_cache.pool.referenced == 0
            llm.close()


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> LLM:
    """The same numbers, each pass waited for."""
    return LLM(tiny_model, backend="cpu:numpy", deterministic=True)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    bases = [[rng.randrange(2, 300) for _ in range(rng.randint(1, 60))] for _ in range(count)]
    return [[*base[: rng.randint(1, len(base))], rng.randrange(2, 300)] for base in bases]


WISHES: list[SamplingParams] = [
    PARAMS,
    replace(PARAMS, temperature=0),
    replace(PARAMS, ignore_eos=False, max_tokens=60),
    replace(PARAMS, repetition_penalty=1.5, frequency_penalty=0.5, logprobs=2),
    replace(PARAMS, stop=("e", "東"), max_tokens=40),
    replace(PARAMS, stop_token_ids=tuple(range(2, 40)), max_tokens=40),
    replace(PARAMS, n=3),
    replace(PARAMS, max_tokens=1),
    replace(PARAMS, max_tokens=2),
    replace(PARAMS, temperature=0, speculation=6),
]


@pytest.mark.parametrize("params", WISHES)
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"budget": 9, "running": 4},
        {"budget": 40, "running": 16, "cache_tokens": 320},
    ],
    ids=["roomy", "a few tokens a step", "short of blocks"],
)
def test_overlapped_passes_give_the_tokens_of_passes_waited_for(
    make: Callable[..., LLM], plain: LLM, params: SamplingParams, limits: dict[str, int]
) -> None:
    asked = prompts(14)
    expected = plain.generate(asked, params)
    answers = make(**limits).generate(asked, params)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.token_ids == other.token_ids
        assert (answer.text, answer.finish_reason) == (other.text, other.finish_reason)
        assert answer.logprobs == other.logprobs
        assert [a.token_ids for a in answer.alternatives] == [
            a.token_ids for a in other.alternatives
        ]


def test_the_small_cache_of_these_tests_preempts(make: Callable[..., LLM]) -> None:
    llm = make(budget=40, running=16, cache_tokens=320)
    llm.generate(prompts(14), replace(PARAMS, max_tokens=60))
    assert llm.engine.metrics.preemptions > 0


def test_the_next_pass_is_scheduled_while_one_runs(make: Callable[..., LLM]) -> None:
    """Each pass on the device ends only when the one after it has been scheduled."""
    llm = make()
    scheduled, schedule = threading.Semaphore(0), llm.engine.scheduler.schedule
    in_vain: list[bool] = []

    def noted() -> Any:
        plan = schedule()
        scheduled.release()
        return plan

    def until_the_next_is_scheduled(batch: Any) -> None:
        scheduled.acquire(timeout=LONG)  # its own
        in_vain.append(not scheduled.acquire(timeout=LONG))
        scheduled.release()

    llm.engine.scheduler.schedule = noted  # type: ignore[method-assign]
    ops: Any = llm.engine.runner.ops
    ops.before_pass = until_the_next_is_scheduled
    assert len(llm.generate([5, 6, 7], PARAMS).token_ids) == 20
    assert in_vain == [False] * 20


def test_tokens_are_read_one_step_late(make: Callable[..., LLM]) -> None:
    engine = make().engine
    [request] = submit_to(engine, [5, 6, 7], replace(PARAMS, max_tokens=3))
    drawn = []
    while not request.is_finished:
        engine.step()
        drawn.append((request.drawn, request.in_flight))
    assert drawn == [(0, 1), (1, 1), (2, 1), (3, 0)]
    assert not engine.has_work


def test_one_row_is_computed_in_vain_for_a_request_that_stops(make: Callable[..., LLM]) -> None:
    """That it stops is not known when the next pass begins; that its length is reached, is."""
    engine = make().engine
    rows: list[int] = []
    ops: Any = engine.runner.ops
    ops.before_pass = lambda batch: rows.append(len(batch.tokens))
    [first] = submit_to(engine, [5, 6, 7], replace(PARAMS, max_tokens=4))
    while engine.has_work:
        engine.step()
    assert rows == [3, 1, 1, 1]
    rows.clear()
    engine.prefix_cache.clear()
    stop = replace(PARAMS, stop_token_ids=(first.answer[1],), max_tokens=9)
    [again] = submit_to(engine, [5, 6, 7], stop)
    while engine.has_work:
        engine.step()
    assert again.answer == first.answer[:2]
    assert rows == [3, 1, 1]
    assert engine.metrics.drawn_tokens == 4 + 2


def test_streams_and_event_loops_read_from_it_too(make: Callable[..., LLM], plain: LLM) -> None:
    import asyncio

    llm = make()
    expected = [c.text for c in plain.generate(prompts(4), PARAMS)]
    assert ["".join(llm.stream(prompt, PARAMS)) for prompt in prompts(4)] == expected

    async def read(prompt: list[int]) -> str:
        return "".join([piece async for piece in llm.stream(prompt, PARAMS)])

    async def read_all() -> list[str]:
        return await asyncio.gather(*map(read, prompts(4)))

    assert asyncio.run(read_all()) == expected


@pytest.mark.parametrize("seed", range(6))
def test_cancelling_while_a_pass_runs_leaves_no_block_behind(
    make: Callable[..., LLM], plain: LLM, seed: int
) -> None:
    rng = random.Random(seed)
    engine = make(budget=30, running=12, cache_tokens=512).engine
    asked = prompts(24, seed)
    expected = [c.token_ids for c in plain.generate(asked, PARAMS)]
    alive = [submit_to(engine, prompt, PARAMS)[0] for prompt in asked]
    requests = list(alive)
    while engine.has_work:
        engine.step()
        pool = engine.prefix_cache.pool
        assert pool.free + pool.cached + pool.referenced == pool.count
        if alive and rng.random() < 0.2:
            engine.cancel(alive.pop(rng.randrange(len(alive))), "cancelled")
    assert engine.prefix_cache.pool.referenced == 0
    for request, tokens in zip(requests, expected, strict=True):
        if request.finish_reason == "length":
            assert tuple(request.answer) == tokens
        else:
            assert tuple(request.answer) == tokens[: request.drawn]
    # What the cancelled left in the cache is verified.
    assert [c.token_ids for c in _generate(engine, asked)] == expected


def _generate(engine: Any, asked: list[list[int]], params: SamplingParams = PARAMS) -> list[Any]:
    requests = [submit_to(engine, prompt, params)[0] for prompt in asked]
    while engine.has_work:
        engine.step()

    class Answer:
        def __init__(self, request: Any) -> None:
            self.token_ids = tuple(request.answer)

    return [Answer(request) for request in requests]


def test_a_pass_that_fails_on_the_device_ends_only_the_request_at_fault(
    make: Callable[..., LLM], plain: LLM
) -> None:
    llm = make()

    def broken(batch: Any) -> None:
        if 299 in batch.tokens:
            raise RuntimeError("no such token")

    ops: Any = llm.engine.runner.ops
    ops.before_pass = broken
    asked = [[5, 6, 7], [8, 299], [9] * 40]
    requests = [submit_to(llm.engine, prompt, PARAMS)[0] for prompt in asked]
    while llm.engine.has_work:
        llm.engine.step()
    assert str(requests[1].error) == "no such token"
    for index in (0, 2):
        [alone] = plain.generate([asked[index]], PARAMS)
        if 299 not in alone.token_ids:
            assert tuple(requests[index].answer) == alone.token_ids


def test_a_pass_that_fails_once_changes_no_token(make: Callable[..., LLM], plain: LLM) -> None:
    llm = make()
    passes = [0]

    def broken(batch: Any) -> None:
        passes[0] += 1
        if passes[0] in (1, 12):
            raise RuntimeError("once")

    ops: Any = llm.engine.runner.ops
    ops.before_pass = broken
    asked = prompts(6)
    expected = [c.token_ids for c in plain.generate(asked, PARAMS)]
    assert [c.token_ids for c in llm.generate(asked, PARAMS)] == expected


@pytest.mark.parametrize("seed", range(6))
def test_passes_that_fail_now_and_then_change_no_token(
    make: Callable[..., LLM], plain: LLM, seed: int
) -> None:
    """Also where blocks are short, and some have given theirs up while the pass ran."""
    rng = random.Random(seed)
    engine = make(budget=30, running=12, cache_tokens=320).engine

    def broken(batch: Any) -> None:
        if len(batch.context_lengths) > 1 and rng.random() < 0.1:
            raise RuntimeError("now and then")

    ops: Any = engine.runner.ops
    ops.before_pass = broken
    params = replace(PARAMS, max_tokens=50)
    asked = prompts(20, seed)
    expected = [c.token_ids for c in plain.generate(asked, params)]
    assert [c.token_ids for c in _generate(engine, asked, params)] == expected
    assert engine.metrics.preemptions > 0


def test_nan_ends_its_request_while_others_go_on(
    make: Callable[..., LLM], tmp_path: Path, write_model: Any, tiny_tensors: dict[str, Any]
) -> None:
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    llm = make(model=write_model(tmp_path, tiny_tensors))
    greedy = replace(PARAMS, temperature=0)
    harmless, guilty = (submit_to(llm.engine, prompt, greedy)[0] for prompt in ([5, 6], [5, 42]))
    while llm.engine.has_work:
        llm.engine.step()
    assert isinstance(guilty.error, NumericalError)
    assert guilty.answer == []
    assert isinstance(harmless.error, NumericalError) or harmless.drawn == 20


def test_closing_waits_for_the_pending_pass(make: Callable[..., LLM]) -> None:
    llm = make()
    engine = llm.engine
    done = threading.Event()
    ops: Any = engine.runner.ops
    ops.before_pass = lambda batch: done.wait(0.05) and None
    [request] = submit_to(engine, [5, 6, 7], PARAMS)
    engine.step()
    assert engine.has_work
    llm.close()
    assert isinstance(request.error, ClosedError)
    assert engine.core._pending is None


def test_logits_are_computed_while_a_pass_is_pending(make: Callable[..., LLM], plain: LLM) -> None:
    llm = make()
    stream = llm.stream([5, 6, 7], PARAMS)
    next(stream)
    np.testing.assert_array_equal(llm.logits([9, 8, 7]), plain.logits([9, 8, 7]))
    assert stream.completion.text + "".join(stream) == plain.generate([5, 6, 7], PARAMS).text
