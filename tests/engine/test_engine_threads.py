"""Many threads on one engine: each gets its own text, none hangs, and closing ends them all."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from concurrency import PATIENCE, eventually, in_a_loop, in_threads, read, soon
from live import DRAWN, TEXTS, VOCABULARY, Open, ids, is_idle

from cullama import LLM
from cullama.engine.engine import Engine
from cullama.errors import ClosedError


@pytest.mark.parametrize("has_thread", [False, True])
def test_eight_threads_each_get_their_own_text(llm: LLM, has_thread: bool) -> None:
    texts = [*TEXTS, "An eighth", "A seventh"]
    expected = [llm.generate(text, DRAWN).text for text in texts]
    if has_thread:
        llm.engine.start()
    jobs = [lambda text=text: "".join(llm.stream(text, DRAWN)) for text in texts]
    for _ in range(3):
        assert in_threads(*jobs) == expected


@pytest.mark.parametrize("has_thread", [False, True])
def test_short_requests_finish_while_a_long_one_runs(
    open_llm: Open, long_model: Path, has_thread: bool
) -> None:
    """The long text takes its steps one after the other; they serve the short one, too."""
    llm = open_llm(blocks=256, model=long_model)
    if has_thread:
        llm.engine.start()
    begun = threading.Event()
    is_over: list[bool] = []

    def long() -> None:
        for number, _ in enumerate(llm.stream(ids(5), replace(DRAWN, max_tokens=4000))):
            if number == 3:
                begun.set()
            if is_over:
                return
        raise AssertionError("the long text ended before the short ones")

    def short() -> None:
        try:
            begun.wait(PATIENCE)
            for seed in range(5):
                assert len(llm.generate(ids(5, seed), DRAWN).token_ids) == 24
        finally:
            is_over.append(True)

    in_threads(long, short)


@pytest.mark.parametrize("has_thread", [False, True])
def test_logits_do_not_wait_for_a_long_request(
    open_llm: Open, long_model: Path, has_thread: bool
) -> None:
    llm = open_llm(blocks=256, model=long_model)
    if has_thread:
        llm.engine.start()
    begun = threading.Event()
    is_over: list[bool] = []

    def long() -> int:
        for number, _ in enumerate(llm.stream(ids(5), replace(DRAWN, max_tokens=4000))):
            if number == 3:
                begun.set()
            if is_over:
                return number
        raise AssertionError("the long text ended before the logits had their turn")

    def short() -> int:
        try:
            begun.wait(PATIENCE)
            for _ in range(3):
                assert llm.logits(ids(5)).shape == (5, VOCABULARY)
        finally:
            is_over.append(True)
        return 0

    in_threads(long, short)


@pytest.mark.parametrize("has_thread", [False, True])
def test_closing_ends_the_requests_of_every_thread(
    open_llm: Open, long_model: Path, has_thread: bool
) -> None:
    """With its whole text, or with an error: none hangs, and none goes on for ever."""
    params = replace(DRAWN, max_tokens=1500)
    for delay in (0, 1, 50, 400):
        llm = open_llm(blocks=256, model=long_model)
        engine = llm.engine
        if has_thread:
            engine.start()

        def stream(seed: int, llm: LLM = llm) -> str:
            try:
                stream = llm.stream(ids(5, seed), params)
                "".join(stream)
            except ClosedError:
                return "closed"
            return stream.completion.finish_reason

        def close(llm: LLM = llm, engine: Engine = engine, delay: int = delay) -> str:
            eventually(lambda: engine.metrics.drawn_tokens >= delay)
            llm.close()
            return "closer"

        jobs = [lambda seed=seed: stream(seed) for seed in range(6)]
        ends = in_threads(*jobs, close, close)
        assert set(ends[:6]) <= {"closed", "length"}
        assert engine.metrics.ended.total() == engine.metrics.submitted
        assert is_idle(engine)


def test_closing_ends_async_streams_with_an_error(open_llm: Open, long_model: Path) -> None:
    llm = open_llm(blocks=256, model=long_model)
    engine = llm.engine

    async def main() -> list[Any]:
        params = replace(DRAWN, max_tokens=3000)
        tasks = [asyncio.ensure_future(read(llm.stream(ids(5, n), params))) for n in range(5)]
        assert await soon(lambda: engine.metrics.drawn_tokens > 50)
        llm.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(one, ClosedError) for one in in_a_loop(main))
    assert engine.metrics.ended == {"error": 5}
    assert engine._thread is not None
    assert not engine._thread.is_alive()
