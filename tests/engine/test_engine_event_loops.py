"""Streams in an event loop: read together, left early, cancelled, in loops that are closed."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concurrency import eventually, in_a_loop, in_threads, read, soon
from live import DRAWN, GREEDY, TEXTS, Ids, Open, WriteModel, ids, is_idle, request_of
from oracle import confirm_answer

from cullama import LLM, Completion, Stream
from cullama.errors import NumericalError


def test_async_streams_give_the_text_of_sync_ones(llm: LLM) -> None:
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def main() -> list[str]:
        return await asyncio.gather(*(read(llm.stream(text, DRAWN)) for text in TEXTS))

    assert in_a_loop(main) == expected


def test_fifty_streams_at_once(llm: LLM, cold: LLM) -> None:
    prompts = [ids(5 + n % 40, seed=n) for n in range(50)]

    async def main() -> list[Completion]:
        streams = [llm.stream(prompt, replace(DRAWN, seed=1)) for prompt in prompts]
        await asyncio.gather(*map(read, streams))
        return [stream.completion for stream in streams]

    for prompt, one in zip(prompts, in_a_loop(main), strict=True):
        assert one.finish_reason == "length"
        assert len(one.token_ids) == 24
        confirm_answer(cold, prompt, one.token_ids, DRAWN, seed=1)


def test_pieces_come_while_the_text_is_written(open_llm: Open, long_model: Path) -> None:
    llm = open_llm(blocks=256, model=long_model)

    async def main() -> int:
        stream = llm.stream([5] * 5, replace(DRAWN, max_tokens=1000))
        async for _ in stream:
            return request_of(stream).drawn
        return 0

    assert 0 < in_a_loop(main) < 500


def test_the_event_loop_runs_other_tasks_meanwhile(open_llm: Open, long_model: Path) -> None:
    llm = open_llm(blocks=256, model=long_model)

    async def main() -> int:
        task = asyncio.ensure_future(read(llm.stream([5] * 5, replace(DRAWN, max_tokens=400))))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        return turns

    assert in_a_loop(main) > 100


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_leaving_an_async_for_releases_the_blocks(
    open_llm: Open, long_model: Path, pieces: int
) -> None:
    llm = open_llm(blocks=256, model=long_model)
    pool = llm.engine.prefix_cache.pool

    async def main() -> str | None:
        stream = llm.stream([5] * 5, replace(DRAWN, max_tokens=3000))
        if pieces:
            left = pieces
            async for _ in stream:
                left -= 1
                if not left:
                    break
        else:
            stream.close()
        assert await soon(lambda: pool.referenced == 0)
        assert await soon(lambda: request_of(stream).is_finished)
        return stream.completion.finish_reason

    assert in_a_loop(main) == "cancelled"
    assert llm.engine.metrics.drawn_tokens < 3000
    assert llm.engine.metrics.ended == {"cancelled": 1}


def test_a_stream_left_early_is_cancelled_even_if_all_its_tokens_are_drawn(llm: LLM) -> None:
    """The engine may be well ahead of what is read; the completion tells of what was read."""

    async def main() -> Completion:
        stream = llm.stream(TEXTS[0], DRAWN)
        async for _ in stream:
            assert await soon(lambda: request_of(stream).is_finished)
            break
        return stream.completion

    completion = in_a_loop(main)
    assert len(completion.token_ids) < 24
    assert completion.finish_reason == "cancelled"


def test_cancelling_a_task_releases_the_blocks(open_llm: Open, long_model: Path) -> None:
    llm = open_llm(blocks=256, model=long_model)
    pool = llm.engine.prefix_cache.pool
    params = replace(DRAWN, max_tokens=3000)

    async def main() -> None:
        tasks = [asyncio.ensure_future(read(llm.stream(ids(5, n), params))) for n in range(5)]
        assert await soon(lambda: llm.engine.metrics.drawn_tokens > 20)
        for task in tasks:
            task.cancel()
        assert await soon(lambda: pool.referenced == 0)
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task

    in_a_loop(main)
    assert llm.engine.metrics.ended == {"cancelled": 5}


def test_a_cancelled_task_does_not_disturb_the_others(llm: LLM) -> None:
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def main() -> list[str]:
        doomed = asyncio.ensure_future(read(llm.stream(ids(9), replace(DRAWN, max_tokens=100))))
        tasks = [asyncio.ensure_future(read(llm.stream(text, DRAWN))) for text in TEXTS]
        await asyncio.sleep(0)
        doomed.cancel()
        return await asyncio.gather(*tasks)

    assert in_a_loop(main) == expected


def test_random_disconnects_leave_no_block_and_no_task_behind(llm: LLM, cold: LLM) -> None:
    draw = random.Random(0)
    prompts = [ids(draw.randint(1, 60), seed=n) for n in range(150)]

    async def visit(prompt: Ids) -> Completion:
        stream = llm.stream(prompt, replace(GREEDY, max_tokens=40))
        stay = draw.randint(0, 40)
        async for _ in stream:
            stay -= 1
            if stay <= 0:
                break
        return stream.completion

    async def main() -> list[Completion]:
        completions, tasks = [], asyncio.all_tasks()
        for start in range(0, 150, 25):
            completions += await asyncio.gather(*map(visit, prompts[start : start + 25]))
        assert await soon(lambda: is_idle(llm.engine))
        assert asyncio.all_tasks() == tasks
        return completions

    for prompt, one in zip(prompts, in_a_loop(main), strict=True):
        confirm_answer(cold, prompt, one.token_ids, GREEDY)
    assert llm.engine.metrics.ended.total() == llm.engine.metrics.submitted == 150


def test_an_event_loop_closed_in_the_middle_of_a_stream_does_no_harm(
    open_llm: Open, long_model: Path
) -> None:
    llm = open_llm(blocks=256, model=long_model)
    expected = llm.generate(TEXTS[0], DRAWN).text
    stream = llm.stream(ids(5), replace(DRAWN, max_tokens=1000))

    def visit(stream: Stream) -> AsyncGenerator[str, None]:
        loop = asyncio.new_event_loop()
        pieces = aiter(stream)
        loop.run_until_complete(anext(pieces))
        loop.close()
        return pieces

    [pieces] = in_threads(partial(visit, stream))
    drawn = llm.engine.metrics.drawn_tokens
    assert eventually(lambda: llm.engine.metrics.drawn_tokens > drawn + 5)
    assert in_threads(lambda: "".join(llm.stream(TEXTS[0], DRAWN))) == [expected]
    del pieces, stream
    gc.collect()
    assert eventually(lambda: is_idle(llm.engine))


def test_one_event_loop_after_the_other_reads_the_same_text(llm: LLM) -> None:
    expected = llm.generate(TEXTS[0], DRAWN).text

    async def main() -> str:
        return await read(llm.stream(TEXTS[0], DRAWN))

    assert [in_a_loop(main) for _ in range(3)] == [expected] * 3
    assert llm.generate(TEXTS[0], DRAWN).text == expected


def test_event_loops_and_threads_read_together(llm: LLM) -> None:
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def main() -> list[str]:
        return await asyncio.gather(*(read(llm.stream(text, DRAWN)) for text in TEXTS))

    def thread() -> list[str]:
        return ["".join(llm.stream(text, DRAWN)) for text in TEXTS]

    def batch() -> list[str]:
        return [one.text for one in llm.generate(TEXTS, DRAWN)]

    jobs = [lambda: in_a_loop(main), thread, batch] * 2
    assert in_threads(*jobs) == [expected] * 6


def test_an_error_is_raised_in_the_task_that_awaits_its_request(
    open_llm: Open, tmp_path: Path, write_model: WriteModel, tiny_tensors: dict[str, Any]
) -> None:
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    llm = open_llm(model=write_model(tmp_path, tiny_tensors))

    async def main() -> list[Any]:
        streams = [llm.stream(prompt, DRAWN) for prompt in ([5, 42], [5, 6])]
        return await asyncio.gather(*map(read, streams), return_exceptions=True)

    unsound, verified = in_a_loop(main)
    assert isinstance(unsound, NumericalError)
    assert isinstance(verified, str)


def test_stop_strings_end_an_async_stream_too(llm: LLM) -> None:
    whole = llm.generate(TEXTS[0], DRAWN).text
    stop = whole[6:9]

    async def main() -> Completion:
        stream = llm.stream(TEXTS[0], replace(DRAWN, stop=(stop,)))
        assert await read(stream) == whole[: whole.index(stop)]
        assert await soon(lambda: is_idle(llm.engine))
        return stream.completion

    expected = llm.generate(TEXTS[0], replace(DRAWN, stop=(stop,)))
    completion = in_a_loop(main)
    assert completion.token_ids == expected.token_ids
    assert completion.finish_reason == "stop"
