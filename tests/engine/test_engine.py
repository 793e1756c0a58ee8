"""Whatever comes, goes, fails or sleeps: each request gets its own tokens and one end."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pytest
from live import request_of, submit_to, tokens_of
from oracle import confirm, confirm_answer

from cullama import LLM, Completion, SamplingParams, Stream
from cullama.engine.engine import Engine
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord
from cullama.errors import (
    ClosedError,
    ContextLengthError,
    NumericalError,
    QueueFullError,
    UsageError,
)
from cullama.sampling.draw import Drawn

Result = TypeVar("Result")
WriteModel: TypeAlias = Callable[..., Path]
Ids: TypeAlias = list[int]
Open: TypeAlias = Callable[..., LLM]

BLOCK, CONTEXT, VOCABULARY, END = 32, 128, 300, 1
LONG = 4096  # tokens of context, where 128 are written too fast
PATIENCE = 20  # seconds until something that hangs is called hung

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=24, seed=7, ignore_eos=True)
TEXTS = ["Once upon a time", "The old clock", "東京 and", "def add(", "🦙", "In the naïve"]


@pytest.fixture(scope="module")
def cold(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model) as llm:
        yield llm


@pytest.fixture(scope="module")
def long_model(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Path:
    folder = tmp_path_factory.mktemp("models") / "long"
    return write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=LONG)


@pytest.fixture
def open_llm(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A model whose engine has so many blocks, tokens a step, and sequences at once."""
    opened: list[LLM] = []

    def open_one(
        blocks: int = 64,
        budget: int = 512,
        max_running: int = 256,
        max_ahead: int = 1024,
        model: Path = tiny_model,
    ) -> LLM:
        monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
        monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", max_running)
        monkeypatch.setattr("cullama.engine.scheduler.MAX_AHEAD", max_ahead)
        opened.append(LLM(model, cache_tokens=blocks * BLOCK))
        return opened[-1]

    yield open_one
    in_threads(*(llm.close for llm in opened))


@pytest.fixture
def llm(open_llm: Open) -> Iterator[LLM]:
    made = open_llm()
    yield made
    if made._engine is not None:
        gc.collect()
        assert eventually(lambda: is_idle(made.engine))


# --- the few words these tests use


def ids(count: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).tolist()


def is_idle(engine: Engine) -> bool:
    return not engine.scheduler.has_work and engine.prefix_cache.pool.referenced == 0


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def run(engine: Engine, *until: Request, most: int = 20_000) -> None:
    """Step until these have ended, or there is no work."""
    steps = 0
    while not all(one.is_finished for one in until) if until else engine.scheduler.has_work:
        engine.step()
        steps += 1
        assert steps < most, "it turns for ever"


def submit(llm: LLM, prompt: Ids, params: SamplingParams = GREEDY, priority: int = 0) -> Request:
    [sequence] = submit_to(llm.engine, prompt, params, priority)
    return sequence


def in_threads(*jobs: Callable[[], Result]) -> list[Result]:
    """What each returns, all at once; an error in one is raised here, and none may hang."""
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            results[index] = jobs[index]()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(jobs))
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "it hangs"
    return results


def in_a_loop(main: Callable[[], Awaitable[Result]]) -> Result:
    """`asyncio.run` in a thread: a loop that hangs is left behind."""

    async def run_main() -> Result:
        return await asyncio.wait_for(main(), PATIENCE)

    return in_threads(lambda: asyncio.run(run_main()))[0]


async def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    return condition()


async def read(stream: Stream) -> str:
    return "".join([piece async for piece in stream])


def check_blocks(engine: Engine) -> None:
    """Nothing is lost, and nobody writes where another reads."""
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
    """How often, and how, each sequence told that it had ended."""

    def __init__(self) -> None:
        self.order: list[Request] = []

    def watch(self, sequence: Request) -> Request:
        def told() -> None:
            if sequence.is_finished:
                self.order.append(sequence)

        sequence.on_change = told
        return sequence

    def check(self, engine: Engine, submitted: list[Request]) -> None:
        assert Counter(map(id, self.order)) == Counter(map(id, submitted))
        assert all(one.is_finished and one.stage == "out" for one in submitted)
        reasons = Counter(one.finish_reason for one in submitted)
        assert engine.metrics.ended == reasons
        assert engine.metrics.submitted == len(submitted)
        assert is_idle(engine)


# --- random traffic


class Traffic:
    """Requests of all kinds that come, are left, sleep and wake, between steps of the engine."""

    def __init__(self, llm: LLM, seed: int) -> None:
        self.llm, self.engine = llm, llm.engine
        self.draw = random.Random(seed)
        self.ends = Ends()
        self.sequences: list[Request] = []
        self.records: list[StepRecord] = []
        self.engine.observers.append(self.records.append)
        self.trunk = ids(60, seed)
        self.longest = self.engine.prefix_cache.pool.count * BLOCK

    def run(self, requests: int) -> None:
        while len(self.sequences) < requests:
            action = self.draw.choice([self.come, self.step, self.step, self.step, self.leave])
            action()
            if self.sequences and self.draw.random() < 0.5:
                self.wake(self.draw.choice(self.sequences))
            check_blocks(self.engine)
        rounds = 0
        while not all(one.is_finished for one in self.sequences):
            self.step()
            self.wake(*self.sequences)
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
        for sequence in submit_to(self.engine, prompt, params, priority):
            self.sequences.append(self.ends.watch(sequence))

    def step(self) -> None:
        if self.engine.scheduler.has_work:
            self.engine.step()

    def leave(self) -> None:
        if self.sequences and self.draw.random() < 0.3:
            self.engine.cancel(self.draw.choice(self.sequences), "cancelled")

    def wake(self, *readers: Request) -> None:
        """Readers take what has been written for them."""
        for sequence in readers:
            self.engine.read(sequence)


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
def test_each_gets_what_it_would_have_got_alone(
    open_llm: Open, cold: LLM, limits: dict[str, int], seed: int
) -> None:
    llm = open_llm(**limits)
    traffic = Traffic(llm, seed)
    traffic.run(requests=20)
    for sequence in traffic.sequences:
        confirm(cold, sequence)
        if sequence.finish_reason == "length":
            assert sequence.drawn == sequence.params.max_tokens
        else:
            assert sequence.finish_reason == "cancelled"
    traffic.ends.check(llm.engine, traffic.sequences)
    check_records(llm.engine, traffic.records, limits.get("budget", 512))


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


def test_the_traffic_of_these_tests_is_as_rough_as_they_say(open_llm: Open) -> None:
    llm = open_llm(blocks=6)
    Traffic(llm, 0).run(requests=60)
    metrics = llm.engine.metrics
    assert metrics.preemptions > 5
    assert metrics.cached_tokens > 100
    assert metrics.ended["cancelled"] > 2


def test_a_hundred_requests_find_room_in_a_cache_for_two(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(blocks=4)
    prompts = [ids(40, seed) for seed in range(100)]
    completions = llm.generate(prompts, replace(GREEDY, max_tokens=6))
    assert [one.finish_reason for one in completions] == ["length"] * 100
    for prompt, one in zip(prompts, completions, strict=True):
        confirm_answer(cold, prompt, one.token_ids, GREEDY)
    assert is_idle(llm.engine)


def test_texts_that_outgrow_the_cache_together_take_turns(open_llm: Open, cold: LLM) -> None:
    """All of them fit when they come in; only one does when it ends."""
    llm = open_llm(blocks=5)
    prompts = [ids(10, seed) for seed in range(5)]
    completions = llm.generate(prompts, replace(GREEDY, max_tokens=110))
    for prompt, one in zip(prompts, completions, strict=True):
        assert len(one.token_ids) == 110
        confirm_answer(cold, prompt, one.token_ids, GREEDY)
    assert llm.engine.metrics.preemptions > 2


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_what_can_never_fit_is_refused_at_once(open_llm: Open, blocks: int) -> None:
    llm = open_llm(blocks=blocks)
    room = blocks * BLOCK + 1  # the last token is not kept
    for prompt, answer in ((room, None), (room - 1, 2), (1, room), (CONTEXT, 1), (1, CONTEXT)):
        with pytest.raises(ContextLengthError):
            submit_to(llm.engine, [5] * prompt, replace(GREEDY, max_tokens=answer))
    assert llm.engine.metrics.submitted == 0
    fits = llm.generate([5] * (room - 2), replace(GREEDY, max_tokens=2))
    assert len(fits.token_ids) == 2
    assert len(llm.generate([5], replace(GREEDY, max_tokens=room - 1)).token_ids) == room - 1


# --- guesses


REPETITIVE = [70, 71, 72, 73, 74, 75] * 6


def with_and_without_guesses(
    llm: LLM, prompt: Ids | str, params: SamplingParams, guesses: int = 6
) -> Completion:
    """The guessed one, which has to be the plain one in all but speed."""
    plain = llm.generate(prompt, replace(params, speculation=0))
    guessed = llm.generate(prompt, replace(params, speculation=guesses))
    assert guessed.token_ids == plain.token_ids
    assert guessed.text == plain.text
    assert guessed.finish_reason == plain.finish_reason
    assert (guessed.logprobs is None) == (plain.logprobs is None)
    if guessed.logprobs is not None and plain.logprobs is not None:
        assert len(guessed.logprobs) == len(guessed.token_ids)
        for one, other in zip(guessed.logprobs, plain.logprobs, strict=True):
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    return guessed


@pytest.mark.parametrize("guesses", [1, 2, 5, 64])
@pytest.mark.parametrize("prompt", [REPETITIVE, ids(36), [5], [5] * 40], ids=len)
def test_guesses_change_no_greedy_token(llm: LLM, prompt: Ids, guesses: int) -> None:
    with_and_without_guesses(llm, prompt, replace(GREEDY, max_tokens=80), guesses)


@pytest.mark.parametrize("seed", range(20))
def test_guesses_change_no_drawn_token(llm: LLM, seed: int) -> None:
    """The same for each seed, so the same distribution."""
    flat = replace(DRAWN, seed=seed)
    for params in (
        flat,
        replace(flat, temperature=0.2, max_tokens=60),
        replace(flat, temperature=0.3, top_p=0.8, repetition_penalty=1.1, frequency_penalty=0.2),
        replace(flat, logit_bias={70: 3.0, 71: 3.0}, top_k=5, max_tokens=60),
    ):
        with_and_without_guesses(llm, REPETITIVE, params)


@pytest.mark.parametrize("guesses", [1, 4, 64])
def test_guesses_save_steps_where_the_text_repeats_itself(llm: LLM, guesses: int) -> None:
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    params = replace(GREEDY, max_tokens=60, logit_bias={70: 1000.0}, speculation=guesses)
    assert llm.generate([70] * 10, params).token_ids == (70,) * 60
    metrics = llm.engine.metrics
    assert metrics.steps <= 60 / (1 + guesses) + 10
    assert metrics.drawn_tokens == 60 == metrics.steps + metrics.accepted_tokens
    assert 0 < metrics.accepted_tokens <= metrics.draft_tokens
    assert metrics.acceptance_rate == metrics.accepted_tokens / metrics.draft_tokens
    check_records(llm.engine, records, budget=512)


def test_wrong_guesses_are_counted_and_cost_no_token(llm: LLM) -> None:
    params = replace(GREEDY, max_tokens=20, speculation=5, logit_bias={299: 1000.0})
    guessed = with_and_without_guesses(llm, REPETITIVE, params)
    assert guessed.token_ids == (299,) * 20
    metrics = llm.engine.metrics
    assert metrics.draft_tokens >= metrics.accepted_tokens
    assert metrics.drawn_tokens == 40


@pytest.mark.parametrize("count", range(1, 20))
def test_max_tokens_cuts_in_the_middle_of_right_guesses(llm: LLM, count: int) -> None:
    params = replace(GREEDY, max_tokens=count, logit_bias={70: 1000.0}, logprobs=1)
    guessed = with_and_without_guesses(llm, [70] * 10, params, guesses=7)
    assert guessed.token_ids == (70,) * count
    assert guessed.finish_reason == "length"


def next_in_circle(token: int) -> int:
    """0 … 9 go round, and so do 10 … 19."""
    return token - 9 if token % 10 == 9 else token + 1


@pytest.fixture
def circle(
    open_llm: Open,
    tmp_path: Path,
    write_model: WriteModel,
    tokenizer_file: Path,
    tiny_tensors: dict[str, Any],
) -> LLM:
    """A model whose likeliest token is always the next in the circle: guesses are often right."""
    for name, tensor in tiny_tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[:] = 0  # nothing but the newest token counts
        if name.endswith("norm.weight"):
            tensor[:] = 1
    table, head = tiny_tensors["model.embed_tokens.weight"], tiny_tensors["lm_head.weight"]
    for token in range(VOCABULARY):
        head[next_in_circle(token)] = table[token]
    return open_llm(model=write_model(tmp_path / "circle", tiny_tensors, tokenizer=tokenizer_file))


def circle_from(token: int, count: int) -> Ids:
    tokens = [token]
    while len(tokens) < count:
        tokens.append(next_in_circle(tokens[-1]))
    return tokens


def test_a_circle_is_guessed_right(circle: LLM) -> None:
    guessed = with_and_without_guesses(circle, circle_from(73, 15), replace(GREEDY, max_tokens=90))
    assert list(guessed.token_ids) == circle_from(73, 105)[15:]
    assert circle.engine.metrics.steps < 90 + 20
    assert circle.engine.metrics.acceptance_rate == 1


@pytest.mark.parametrize("temperature", [0.4, 0.5, 0.6])
def test_guesses_that_are_right_now_and_then_change_no_drawn_token(
    circle: LLM, temperature: float
) -> None:
    for seed in range(20):
        params = replace(DRAWN, seed=seed, temperature=temperature, max_tokens=60, logprobs=0)
        with_and_without_guesses(circle, circle_from(73, 15), params)
    metrics = circle.engine.metrics
    assert 0.05 < metrics.acceptance_rate < 0.95
    assert metrics.accepted_tokens > 20
    assert metrics.drawn_tokens == 2 * 20 * 60


@pytest.mark.parametrize("wish", ["stop_token_ids", "stop", "max_tokens"])
def test_every_end_cuts_in_the_middle_of_right_guesses(circle: LLM, wish: str) -> None:
    prompt, params = circle_from(73, 15), replace(GREEDY, max_tokens=40, logprobs=1)
    whole = circle.generate(prompt, params)
    for count in range(1, 24):
        last = whole.token_ids[count - 1]
        first = whole.token_ids.index(last) + 1  # where it is drawn for the first time
        if wish == "max_tokens":
            cut = with_and_without_guesses(circle, prompt, replace(params, max_tokens=count))
            assert cut.token_ids == whole.token_ids[:count]
        elif wish == "stop_token_ids":
            cut = with_and_without_guesses(circle, prompt, replace(params, stop_token_ids=(last,)))
            assert cut.token_ids == whole.token_ids[:first]
            assert cut.finish_reason == "stop"
        else:
            stop = whole.text[count : count + 2]
            cut = with_and_without_guesses(circle, prompt, replace(params, stop=(stop,)))
            assert cut.text == whole.text[: whole.text.index(stop)]
            assert cut.finish_reason == "stop"
    assert circle.engine.metrics.accepted_tokens > 50


def test_the_end_token_cuts_in_the_middle_of_right_guesses(circle: LLM) -> None:
    """It is one of the circle 0 … 9, and is guessed like any other."""
    for start in range(2, 8):
        prompt = [*circle_from(0, 12), *circle_from(start, 1)]
        ended = with_and_without_guesses(circle, prompt, replace(GREEDY, ignore_eos=False))
        assert list(ended.token_ids) == circle_from(start + 1, 13)[: (1 - start) % 10]
        assert ended.finish_reason == "stop"


def test_streams_with_guesses_read_as_those_without(circle: LLM) -> None:
    params = replace(GREEDY, max_tokens=80)
    for prompt in (TEXTS[0], " llama" * 12, circle_from(73, 15)):
        plain = "".join(circle.stream(prompt, params))
        stream = circle.stream(prompt, replace(params, speculation=5))
        assert "".join(stream) == plain
        assert stream.completion.finish_reason == "length"
    assert circle.engine.metrics.accepted_tokens > 100


def test_a_text_that_was_guessed_is_found_in_the_cache(circle: LLM) -> None:
    """Its own tokens, and not the guesses that were wrong."""
    for seed in range(20):
        prompt = circle_from(73, 15)
        params = replace(DRAWN, seed=seed, temperature=0.6, max_tokens=50, speculation=6)
        answer = circle.generate(prompt, params).token_ids
        text = [*prompt, *answer, 5]
        before = circle.engine.metrics.cached_tokens
        again = circle.generate(text, replace(GREEDY, logprobs=0))
        assert circle.engine.metrics.cached_tokens - before == len(text) - 2
        confirm_answer(circle, text, again.token_ids, GREEDY)


def test_guesses_fit_the_cache_and_the_budget(open_llm: Open, cold: LLM) -> None:
    """Where there is no room for a guess there is room for the token."""
    llm = open_llm(blocks=2, budget=5, max_running=2)
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    params = replace(GREEDY, max_tokens=65 - 30, speculation=64)
    answer = llm.generate([70, 71] * 15, params).token_ids
    confirm_answer(cold, [70, 71] * 15, answer, params)
    check_records(llm.engine, records, budget=5)


# --- event loops


def test_streams_of_an_event_loop_read_as_those_of_a_thread(llm: LLM) -> None:
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


def test_a_loop_goes_on_with_other_things_meanwhile(open_llm: Open, long_model: Path) -> None:
    llm = open_llm(blocks=256, model=long_model)

    async def main() -> int:
        reader = asyncio.ensure_future(read(llm.stream([5] * 5, replace(DRAWN, max_tokens=400))))
        turns = 0
        while not reader.done():
            await asyncio.sleep(0)
            turns += 1
        await reader
        return turns

    assert in_a_loop(main) > 100


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_leaving_an_async_loop_gives_the_blocks_back(
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


def test_a_text_left_early_was_cancelled_even_if_all_of_it_is_written(llm: LLM) -> None:
    """The engine may be well ahead of a reader; the completion tells of what was read."""

    async def main() -> Completion:
        stream = llm.stream(TEXTS[0], DRAWN)
        async for _ in stream:
            assert await soon(lambda: request_of(stream).is_finished)
            break
        return stream.completion

    completion = in_a_loop(main)
    assert len(completion.token_ids) < 24
    assert completion.finish_reason == "cancelled"


def test_cancelling_a_task_gives_the_blocks_back(open_llm: Open, long_model: Path) -> None:
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


def test_one_cancelled_task_leaves_the_others_alone(llm: LLM) -> None:
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def main() -> list[str]:
        doomed = asyncio.ensure_future(read(llm.stream(ids(9), replace(DRAWN, max_tokens=100))))
        tasks = [asyncio.ensure_future(read(llm.stream(text, DRAWN))) for text in TEXTS]
        await asyncio.sleep(0)
        doomed.cancel()
        return await asyncio.gather(*tasks)

    assert in_a_loop(main) == expected


def test_many_random_disconnects_leave_nothing_behind(llm: LLM, cold: LLM) -> None:
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


def test_a_loop_that_is_closed_half_way_does_no_harm(open_llm: Open, long_model: Path) -> None:
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


def test_one_loop_after_the_other(llm: LLM) -> None:
    expected = llm.generate(TEXTS[0], DRAWN).text

    async def main() -> str:
        return await read(llm.stream(TEXTS[0], DRAWN))

    assert [in_a_loop(main) for _ in range(3)] == [expected] * 3
    assert llm.generate(TEXTS[0], DRAWN).text == expected


def test_loops_and_threads_read_together(llm: LLM) -> None:
    expected = [llm.generate(text, DRAWN).text for text in TEXTS]

    async def main() -> list[str]:
        return await asyncio.gather(*(read(llm.stream(text, DRAWN)) for text in TEXTS))

    def thread() -> list[str]:
        return ["".join(llm.stream(text, DRAWN)) for text in TEXTS]

    def batch() -> list[str]:
        return [one.text for one in llm.generate(TEXTS, DRAWN)]

    jobs = [lambda: in_a_loop(main), thread, batch] * 2
    assert in_threads(*jobs) == [expected] * 6


def test_an_error_reaches_whoever_awaits(
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


# --- threads


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
def test_a_thread_that_waits_gets_its_tokens_meanwhile(
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
def test_logits_do_not_wait_for_a_long_text(
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
def test_closing_ends_every_thread(open_llm: Open, long_model: Path, has_thread: bool) -> None:
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


def test_closing_ends_those_who_await(open_llm: Open, long_model: Path) -> None:
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


# --- one end


def test_each_way_to_end_is_told_once(open_llm: Open) -> None:
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


def test_an_end_cannot_be_changed(llm: LLM) -> None:
    ends = Ends()
    sequence = ends.watch(submit(llm, ids(5), replace(GREEDY, max_tokens=3)))
    run(llm.engine)
    for _ in range(3):
        llm.engine.cancel(sequence, "cancelled")
    assert sequence.finish_reason == "length"
    ends.check(llm.engine, [sequence])


def test_cancelling_twice_is_cancelling_once(llm: LLM) -> None:
    ends = Ends()
    sequence = ends.watch(submit(llm, ids(5)))
    llm.engine.step()
    for _ in range(3):
        llm.engine.cancel(sequence, "cancelled")
    ends.check(llm.engine, [sequence])
    assert sequence.drawn == 1


@pytest.mark.parametrize("stage", ["waiting", "prefill", "decode", "backpressured"])
def test_a_sequence_can_be_cancelled_at_every_stage(open_llm: Open, cold: LLM, stage: str) -> None:
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


def test_a_reader_may_leave_the_moment_it_is_told(llm: LLM, cold: LLM) -> None:
    """From within the step that tells it."""
    engine = llm.engine
    hasty, patient = submit(llm, ids(5)), submit(llm, ids(6))
    hasty.on_change = lambda: engine.cancel(hasty, "cancelled")
    run(engine)
    assert (hasty.finish_reason, hasty.drawn) == ("cancelled", 1)
    assert patient.finish_reason == "length"
    confirm(cold, patient)


def test_what_is_asked_during_a_step_is_done_after_it(llm: LLM, cold: LLM) -> None:
    engine = llm.engine
    more: list[Request] = []

    def ask(record: StepRecord) -> None:
        if len(more) < 5:
            more.append(submit(llm, ids(5, seed=len(more))))
            engine.cancel(more[0], "cancelled")

    engine.observers.append(ask)
    first = submit(llm, ids(9))
    run(engine)
    for sequence in (first, *more):
        confirm(cold, sequence)
    assert [one.finish_reason for one in more] == ["cancelled", *["length"] * 4]
    assert engine.metrics.ended.total() == engine.metrics.submitted == 6


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_closed_engine_refuses_and_has_ended_all(open_llm: Open, has_thread: bool) -> None:
    llm = open_llm(max_running=2)
    engine, ends = llm.engine, Ends()
    sequences = [ends.watch(submit(llm, ids(5, n))) for n in range(5)]
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
    assert all(isinstance(s.error, ClosedError) for s in sequences if s.finish_reason == "error")
    ends.check(engine, sequences)


@pytest.mark.parametrize("has_thread", [False, True])
def test_draining_lets_those_under_way_finish_and_no_other_in(
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
    sequences = [ends.watch(submit(llm, ids(40, n))) for n in range(9)]
    if has_thread:
        engine.start()
    in_threads(engine.drain)
    assert [one.finish_reason for one in sequences] == ["length"] * 9
    assert refused
    ends.check(engine, sequences)
    for one in sequences:
        confirm(cold, one)
    with pytest.raises(ClosedError):
        submit_to(engine, ids(5), GREEDY)
    in_threads(engine.drain)  # of nothing
    in_threads(engine.close)


@pytest.mark.parametrize("has_thread", [False, True])
def test_draining_waits_for_slow_readers(open_llm: Open, has_thread: bool) -> None:
    """A text that pauses is under way: its reader still wants the rest."""
    llm = open_llm(max_ahead=4)
    engine = llm.engine
    sequence = submit(llm, ids(5), replace(GREEDY, max_tokens=30))
    run(engine)
    assert sequence.stage == "backpressured"
    if has_thread:
        engine.start()

    def read_slowly() -> list[int]:
        tokens = []
        for token in tokens_of(engine, sequence):
            tokens.append(token)
            time.sleep(0.001)
        return tokens

    def drain() -> list[int]:
        engine.drain()
        assert sequence.is_finished
        return []

    [tokens, _] = in_threads(read_slowly, drain)
    assert len(tokens) == 30
    assert sequence.finish_reason == "length"


def test_closing_ends_a_drain_that_waits_for_a_reader(open_llm: Open) -> None:
    llm = open_llm(max_ahead=4)
    engine = llm.engine
    sequence = submit(llm, ids(5), replace(GREEDY, max_tokens=30))

    def close() -> None:
        assert eventually(lambda: sequence.stage == "backpressured")
        engine.close()

    in_threads(engine.drain, close)
    assert isinstance(sequence.error, ClosedError)
    assert engine.metrics.ended == {"error": 1}


# --- too many, too slow


def test_the_one_too_many_is_refused_and_the_others_are_not(llm: LLM, cold: LLM) -> None:
    engine = llm.engine
    engine.max_waiting = 4
    sequences = [submit(llm, ids(5, n)) for n in range(4)]
    for _ in range(3):
        with pytest.raises(QueueFullError, match="4 requests are waiting"):
            submit(llm, ids(5))
    engine.step()
    sequences.append(submit(llm, ids(5, 9)))  # those before it have been let in
    run(engine)
    assert [one.finish_reason for one in sequences] == ["length"] * 5
    for one in sequences:
        confirm(cold, one)
    assert engine.metrics.submitted == 5


def test_a_full_queue_is_full_from_every_side(llm: LLM) -> None:
    llm.engine.max_waiting = 0
    for call in (llm.generate, llm.stream):
        with pytest.raises(QueueFullError):
            call(TEXTS[0], DRAWN)
    assert is_idle(llm.engine)
    llm.engine.max_waiting = None
    assert llm.generate(TEXTS[0], DRAWN).text


def test_threads_that_come_at_once_do_not_overfill_the_queue(llm: LLM) -> None:
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


def test_ten_times_too_many_are_all_answered_one_way_or_the_other(open_llm: Open) -> None:
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


def test_a_text_nobody_reads_pauses_while_others_go_on(open_llm: Open, cold: LLM) -> None:
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


def test_guesses_do_not_run_away_from_a_reader(open_llm: Open) -> None:
    llm = open_llm(max_ahead=8)
    params = replace(GREEDY, max_tokens=60, speculation=10, logit_bias={70: 1000.0})
    sequence = submit(llm, [70] * 10, params)
    run(llm.engine)
    assert sequence.stage == "backpressured"
    assert 8 <= sequence.drawn < 8 + 11
    assert list(tokens_of(llm.engine, sequence)) == [70] * 60


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_reader_that_wakes_gets_the_rest(open_llm: Open, cold: LLM, has_thread: bool) -> None:
    llm = open_llm(max_ahead=8)
    engine = llm.engine
    if has_thread:
        engine.start()
    sequence = submit(llm, ids(5), replace(GREEDY, max_tokens=60))
    if not has_thread:
        run(engine)
    assert eventually(lambda: sequence.stage == "backpressured")
    assert sequence.drawn == 8
    [tokens] = in_threads(lambda: list(tokens_of(engine, sequence)))
    assert len(tokens) == 60
    assert sequence.finish_reason == "length"
    confirm(cold, sequence)


def test_slow_readers_of_an_event_loop_get_it_all(open_llm: Open) -> None:
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


def test_a_sleeper_gives_its_blocks_to_those_who_need_them(open_llm: Open, cold: LLM) -> None:
    llm = open_llm(blocks=4, max_ahead=8)
    engine = llm.engine
    sleeper = submit(llm, ids(70), replace(GREEDY, max_tokens=40))
    run(engine)
    assert (sleeper.stage, len(sleeper.blocks)) == ("backpressured", 3)
    other = llm.generate(ids(90, seed=1), replace(GREEDY, max_tokens=30))
    assert len(other.token_ids) == 30
    assert engine.metrics.preemptions == 1
    assert sleeper.stage == "waiting"
    assert not engine.scheduler.has_work  # it is not read again before somebody wants it
    assert len(list(tokens_of(engine, sleeper))) == 40
    confirm(cold, sleeper)
    confirm_answer(cold, ids(90, seed=1), other.token_ids, GREEDY)


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_sleeper_without_blocks_wakes_up(open_llm: Open, has_thread: bool) -> None:
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
    """Tokens of a sequence; the engine takes a step in the middle of the next look at them."""

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
def test_a_reader_that_reads_while_its_text_pauses_is_not_forgotten(
    open_llm: Open, is_before: bool, ready: int
) -> None:
    """Threads may change places anywhere: here, in the middle of taking tokens."""
    llm = open_llm(max_ahead=8)
    engine = llm.engine
    sequence = submit(llm, ids(5), replace(GREEDY, max_tokens=40))
    sequence.tokens = tokens = StepsWhileRead(sequence.tokens)
    for _ in range(ready):
        engine.step()
    tokens.step, tokens.is_before = engine.step, is_before
    delivered = list(engine.read(sequence).token_ids)
    for _ in range(200):
        if sequence.is_finished:
            break
        assert engine.scheduler.has_work, "it sleeps, and its reader waits"
        engine.step()
        delivered += engine.read(sequence).token_ids
    assert delivered == sequence.answer
    assert len(delivered) == 40


# --- ranks


def ends_in_order(llm: LLM, requests: list[tuple[int, SamplingParams]]) -> list[int]:
    """Indices of requests of these priorities, in the order in which they end."""
    ends = Ends()
    sequences = [
        ends.watch(submit(llm, ids(5, index), params, priority))
        for index, (priority, params) in enumerate(requests)
    ]
    run(llm.engine)
    ends.check(llm.engine, sequences)
    return [sequences.index(one) for one in ends.order]


def test_without_priorities_the_first_comes_first(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    assert ends_in_order(llm, [(0, GREEDY)] * 10) == list(range(10))


def test_priorities_go_first(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    priorities = [0, -1, 1, 2, 0, 1]
    assert ends_in_order(llm, [(p, GREEDY) for p in priorities]) == [3, 2, 5, 0, 4, 1]


def test_an_urgent_request_takes_the_seat_of_one_under_way(open_llm: Open, cold: LLM) -> None:
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
    """However many come behind it, nobody waits for more than so many of them."""
    llm = open_llm(max_running=1)
    params = replace(GREEDY, max_tokens=1)
    order = ends_in_order(llm, [(0, params), *[(priority, params)] * 150])
    assert order.index(0) == 64 * priority - 1


def test_nobody_starves_while_urgent_ones_keep_coming(open_llm: Open) -> None:
    llm = open_llm(max_running=1)
    engine = llm.engine
    patient = submit(llm, ids(5), replace(GREEDY, max_tokens=3))
    came = 0
    while not patient.is_finished:
        submit(llm, ids(5, came), replace(GREEDY, max_tokens=1), priority=1)
        engine.step()
        came += 1
        assert came < 100
    for sequence in list(engine.scheduler.waiting):
        engine.cancel(sequence, "cancelled")


@pytest.mark.parametrize("priority", [None, 1.0, "1", True, 10**7, -(10**7)])
def test_what_is_no_priority_is_refused(llm: LLM, priority: Any) -> None:
    for call in (llm.generate, llm.stream):
        with pytest.raises(UsageError, match="priority is"):
            call(TEXTS[0], DRAWN, priority=priority)


# --- whatever goes wrong


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
def test_a_pass_that_fails_ends_those_who_make_it_fail(
    open_llm: Open, cold: LLM, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    llm = open_llm(blocks=8, budget=40, max_running=6)
    engine, draw, ends = llm.engine, random.Random(seed), Ends()
    break_passes_with(llm, monkeypatch, 299)
    trunk = [token for token in ids(50, seed) if token != 299]
    sequences = []
    for number in range(20):
        guilty = [299] if number % 4 == 0 else []
        prompt = trunk[: draw.randint(0, 48)] + guilty + [draw.randint(3, 298)]
        params = replace(GREEDY, max_tokens=draw.randint(1, 10), logit_bias={299: -1000.0})
        sequences.append(ends.watch(submit(llm, prompt, params)))
        engine.step()
        check_blocks(engine)
    run(engine)
    ends.check(engine, sequences)
    for number, one in enumerate(sequences):
        is_guilty = number % 4 == 0
        assert one.finish_reason == ("error" if is_guilty else "length")
        assert isinstance(one.error, BrokenError) == is_guilty
        if not is_guilty:
            confirm(cold, one)


def test_a_sampler_that_finds_no_number_ends_one_of_many(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was a guess that led there: what came before is right, and is counted."""
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


def test_an_interrupt_in_a_step_leaves_an_engine_that_works(
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
    sequences = [submit(llm, prompt, params) for prompt in (ids(9), REPETITIVE, [70] * 9)]
    with pytest.raises(KeyboardInterrupt):
        run(llm.engine)
    run(llm.engine)
    for one in sequences:
        assert one.finish_reason == "length"
        confirm(cold, one)


def test_an_interrupt_between_two_steps_leaves_an_engine_that_works(llm: LLM, cold: LLM) -> None:
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
def test_a_step_that_cannot_be_taken_ends_those_who_await_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own in the engine's thread: whoever waits must hear of it."""
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


# ------------------------------------------------------------------------------- Ctrl-C in a step


@pytest.mark.parametrize("where", ["copy_blocks", "upload_batch", "sample"])
def test_a_step_that_is_cut_short_is_done_again(
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


def test_a_draw_that_is_cut_short_is_drawn_again(
    llm: LLM, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = submit(llm, ids(9))
    ops = llm.engine.runner.ops
    download, cuts = ops.download, [0]

    def cut_short(array: Any) -> Any:
        cuts[0] += 1
        if cuts[0] in (1, 4):
            raise KeyboardInterrupt
        return download(array)

    monkeypatch.setattr(ops, "download", cut_short)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(llm.engine)
    run(llm.engine)
    assert sequence.finish_reason == "length"
    confirm(cold, sequence)
