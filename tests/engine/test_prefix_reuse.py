"""What was computed before is not computed again, and the tokens are the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from live import submit_to
from oracle import confirm, confirm_answer, confirm_logprobs

from cullama import LLM, Completion, SamplingParams
from cullama.engine.request import Request
from cullama.engine.trace import StepRecord
from cullama.errors import NumericalError

WriteModel: TypeAlias = Callable[..., Path]
Ids: TypeAlias = list[int]

BLOCK = 32  # tokens
CONTEXT, VOCABULARY = 128, 300
PARAMS = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def cold(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model) as llm:
        yield llm


@pytest.fixture
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model) as llm:
        assert llm.engine.prefix_cache.block_size == BLOCK
        yield llm
        assert llm.engine.prefix_cache.pool.referenced == 0


@pytest.fixture
def open_llm(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LLM]]:
    """A model whose engine has so many blocks, tokens a step and requests at once."""
    opened: list[LLM] = []

    def open_one(blocks: int, budget: int = 512, max_running: int = 256) -> LLM:
        monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
        monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", max_running)
        opened.append(LLM(tiny_model, cache_tokens=blocks * BLOCK))
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.close()


def ids(count: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).tolist()


def cached(llm: LLM, ask: Callable[[], Any]) -> int:
    """Tokens found in the cache while something is asked."""
    before = llm.engine.metrics.cached_tokens
    ask()
    return llm.engine.metrics.cached_tokens - before


def tokens_read(llm: LLM, ask: Callable[[], Any]) -> int:
    """Tokens that go through the model until the first one is drawn."""
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    ask()
    llm.engine.observers.remove(records.append)
    first = next(index for index, record in enumerate(records) if record.drawn)
    return sum(record.tokens for record in records[: first + 1])


# --- a thousand trees


class Forest:
    """Prompts that begin as earlier ones do: with some of a prompt, or with all of its answer."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.texts: list[Ids] = [[]]  # the last few: older ones have been forgotten anyway

    def tree(self) -> list[Ids]:
        """Two to four prompts."""
        trunk = self._branch(self.draw.choice(self.texts), longest=70)
        leaves = [self._branch(trunk, longest=CONTEXT - 8) for _ in range(self.draw.randint(1, 3))]
        return [trunk, *leaves]

    def add(self, text: Ids) -> None:
        self.texts = [[], *self.texts[1:][-12:], text]

    def _branch(self, text: Ids, longest: int) -> Ids:
        kept = text[: self.draw.choice([len(text), self.draw.randint(0, len(text))])]
        more = self.draw.randint(1, 40)
        return [*kept[: longest - 1], *(self.draw.randint(3, 299) for _ in range(more))][:longest]


@pytest.mark.parametrize(
    ("trees", "blocks", "budget", "max_running"),
    [(600, 16, 512, 256), (200, 6, 512, 3), (200, 5, 24, 4)],
    ids=["small cache", "room for two", "a few tokens a step"],
)
def test_a_thousand_trees_give_the_tokens_of_an_empty_cache(
    open_llm: Callable[..., LLM],
    cold: LLM,
    monkeypatch: pytest.MonkeyPatch,
    trees: int,
    blocks: int,
    budget: int,
    max_running: int,
) -> None:
    llm, forest = open_llm(blocks, budget, max_running), Forest(trees)
    pool = llm.engine.prefix_cache.pool
    evicted: list[int] = []
    forget = pool._on_evict

    def noted(block: int) -> None:
        evicted.append(block)
        forget(block)

    monkeypatch.setattr(pool, "_on_evict", noted)
    for number in range(trees):
        prompts = forest.tree()
        params = replace(PARAMS, max_tokens=1 + number % 5, logprobs=0)
        together = number % 2 == 0
        completions = (
            llm.generate(prompts, params)
            if together
            else [llm.generate(prompt, params) for prompt in prompts]
        )
        for prompt, completion in zip(prompts, completions, strict=True):
            confirm_answer(cold, prompt, completion.token_ids, params)
            assert completion.logprobs is not None
            confirm_logprobs(cold, prompt, completion.token_ids, completion.logprobs)
            forest.add([*prompt, *completion.token_ids])
        assert pool.referenced == 0
        assert pool.free + pool.cached == blocks
    assert len(evicted) > trees / 2
    assert llm.engine.metrics.cache_hit_rate > 0.2


# --- only what is new


@pytest.mark.parametrize("prompt", [1, 20, 31, 32, 33, 63, 64, 65])
@pytest.mark.parametrize("answer", [1, 10, 32])
def test_a_second_turn_computes_only_its_new_tokens(llm: LLM, prompt: int, answer: int) -> None:
    first = ids(prompt)
    completion = llm.generate(first, replace(PARAMS, max_tokens=answer))
    second = [*first, *completion.token_ids, *ids(9, seed=1)]
    known = prompt + answer - 1  # the last token was drawn and never fed back
    if known < 8:
        known = 0
    assert tokens_read(llm, lambda: llm.generate(second, PARAMS)) == len(second) - known
    assert llm.engine.metrics.cached_tokens == known
    assert llm.engine.metrics.prompt_tokens == prompt + len(second)


def test_a_conversation_computes_each_token_once(llm: LLM, cold: LLM) -> None:
    text = ids(12)
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    for turn in range(6):
        completion = llm.generate(text, replace(PARAMS, max_tokens=8))
        confirm_answer(cold, text, completion.token_ids, PARAMS)
        text = [*text, *completion.token_ids, *ids(7, seed=turn)]
    read = len(text) - 7 - 1  # what was not asked about, and the last token drawn
    assert sum(record.tokens for record in records) == read


@pytest.mark.parametrize("length", [9, 31, 32, 33, 64, 65, 118])
def test_the_same_prompt_again_computes_its_last_token(llm: LLM, length: int) -> None:
    first = llm.generate(ids(length), PARAMS)
    again: list[Completion] = []
    assert tokens_read(llm, lambda: again.append(llm.generate(ids(length), PARAMS))) == 1
    assert llm.engine.metrics.cached_tokens == length - 1
    assert again[0].token_ids == first.token_ids


@pytest.mark.parametrize("common", [0, 1, 7, 8, 31, 32, 40, 64, 69])
def test_prompts_share_their_common_prefix(llm: LLM, cold: LLM, common: int) -> None:
    first, other = ids(70), ids(70, seed=1)
    assert first[common] != other[common]
    llm.generate(first, PARAMS)
    prompt = first[:common] + other[common:]
    found = cached(
        llm, lambda: confirm_answer(cold, prompt, llm.generate(prompt, PARAMS).token_ids, PARAMS)
    )
    assert found == (common if common >= 8 else 0)  # fewer are computed faster than found


def test_a_running_request_shares_its_prompt_from_its_first_token_on(llm: LLM, cold: LLM) -> None:
    prompt = ids(50)
    [running] = submit_to(llm.engine, prompt, replace(PARAMS, max_tokens=60))
    llm.engine.step()
    assert cached(llm, lambda: llm.generate(prompt, PARAMS)) == 49
    for _ in range(20):
        llm.engine.step()
    so_far = list(running.tokens)
    assert cached(llm, lambda: llm.generate([*so_far, 5], PARAMS)) >= 50
    while not running.is_finished:
        llm.engine.step()
    confirm(cold, running)  # no other request wrote into its blocks


def test_a_cancelled_request_is_cached_as_far_as_it_came(llm: LLM) -> None:
    prompt = ids(40)
    [request] = submit_to(llm.engine, prompt, replace(PARAMS, max_tokens=60))
    for _ in range(30):
        llm.engine.step()
    written = list(request.tokens)
    assert len(written) == 70
    llm.engine.cancel(request, "cancelled")
    assert cached(llm, lambda: llm.generate([*written, 5], PARAMS)) == 69


def test_a_prompt_cancelled_during_its_prefill_is_not_cached(
    open_llm: Callable[..., LLM], cold: LLM
) -> None:
    """Nothing has come of it yet that would show that it is verified."""
    llm = open_llm(blocks=16, budget=40, max_running=4)
    [request] = submit_to(llm.engine, ids(100), PARAMS)
    llm.engine.step()
    assert request.computed == 40
    llm.engine.cancel(request, "cancelled")
    assert llm.engine.prefix_cache.pool.referenced == 0
    completion: list[Completion] = []
    assert cached(llm, lambda: completion.append(llm.generate(ids(100), PARAMS))) == 0
    confirm_answer(cold, ids(100), completion[0].token_ids, PARAMS)


def test_an_evicted_text_is_computed_again(open_llm: Callable[..., LLM], cold: LLM) -> None:
    llm = open_llm(blocks=4)
    llm.generate(ids(70), PARAMS)
    llm.generate(ids(100, seed=1), PARAMS)
    again: list[Completion] = []
    found = cached(llm, lambda: again.append(llm.generate(ids(70), PARAMS)))
    assert found < 64
    confirm_answer(cold, ids(70), again[0].token_ids, PARAMS)


def test_logits_neither_use_nor_change_the_cached_blocks(llm: LLM, cold: LLM) -> None:
    llm.generate(ids(60), PARAMS)
    np.testing.assert_array_equal(llm.logits(ids(60)), cold.logits(ids(60)))
    assert cached(llm, lambda: llm.generate(ids(60), PARAMS)) == 59


def test_logits_evict_cached_blocks_where_they_need_room(
    open_llm: Callable[..., LLM], cold: LLM
) -> None:
    llm = open_llm(blocks=4)
    llm.generate(ids(100), PARAMS)
    assert llm.engine.prefix_cache.pool.free == 0
    np.testing.assert_array_equal(llm.logits(ids(100, seed=1)), cold.logits(ids(100, seed=1)))
    again = llm.generate(ids(100), PARAMS)
    confirm_answer(cold, ids(100), again.token_ids, PARAMS)


# --- several answers to one prompt


def test_further_samples_share_the_prompt(llm: LLM) -> None:
    prompt = ids(70)
    params = SamplingParams(max_tokens=8, seed=3, n=5, ignore_eos=True)
    found = cached(llm, lambda: llm.generate(prompt, params))
    assert found == 4 * 69
    assert llm.engine.metrics.prompt_tokens == 5 * 70
    assert llm.engine.metrics.submitted == 5


@pytest.mark.parametrize("length", [5, 32, 33, 70])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_each_sample_is_the_one_drawn_alone(
    llm: LLM, cold: LLM, length: int, temperature: float
) -> None:
    prompt = ids(length)
    params = SamplingParams(max_tokens=12, temperature=temperature, seed=3, n=6, ignore_eos=True)
    first = llm.generate(prompt, params)
    samples = [first, *first.alternatives]
    for index, sample in enumerate(samples):
        confirm_answer(cold, prompt, sample.token_ids, params, seed=3, index=index)
    if temperature:
        assert len({sample.token_ids for sample in samples}) > 1


def test_samples_continue_where_the_first_is_cancelled(llm: LLM, cold: LLM) -> None:
    """Before it has read, or after: the others do not wait for one that never comes."""
    for steps in (0, 1, 2):
        params = SamplingParams(max_tokens=8, seed=steps, n=3, ignore_eos=True)
        first, *others = submit_to(llm.engine, ids(40, seed=steps), params)
        for _ in range(steps):
            llm.engine.step()
        llm.engine.cancel(first, "cancelled")
        while llm.engine.scheduler.has_work:
            llm.engine.step()
        assert [one.finish_reason for one in others] == ["length"] * 2
        for one in (first, *others):
            confirm(cold, one)


# --- whatever goes wrong


class PassFailedError(RuntimeError):
    pass


def test_a_repeated_pass_finds_its_copies_unchanged(
    open_llm: Callable[..., LLM], cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that a prompt begins in may be given away in the step in which it is copied; once
    its new owner has written to it, it cannot be copied a second time."""
    llm = open_llm(blocks=4)
    prompt = ids(24)
    llm.generate(prompt, replace(PARAMS, max_tokens=1))
    llm.generate(ids(20, seed=1), replace(PARAMS, max_tokens=1))
    llm.generate(ids(20, seed=2), replace(PARAMS, max_tokens=1))
    runner = llm.engine.runner
    forward, failures = runner.forward, [PassFailedError("once")]

    def fail_once(batch: Any) -> Any:
        logits = forward(batch)
        if failures:
            raise failures.pop()
        return logits

    monkeypatch.setattr(runner, "forward", fail_once)
    params = replace(PARAMS, max_tokens=4, logprobs=0)
    [first] = submit_to(llm.engine, [*prompt, 5], params)
    others = [submit_to(llm.engine, ids(30, seed=9 + n), params)[0] for n in range(2)]
    while llm.engine.scheduler.has_work:
        llm.engine.step()
    assert not failures
    assert llm.engine.metrics.cached_tokens == len(prompt)
    for request in (first, *others):
        assert request.finish_reason == "length"
        confirm(cold, request)


@pytest.fixture
def with_nan(
    tmp_path: Path, write_model: WriteModel, tiny_tensors: dict[str, Any]
) -> Iterator[LLM]:
    """Token 42 is not a number to this model; it has room for 4 blocks."""
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    with LLM(write_model(tmp_path / "nan", tiny_tensors), cache_tokens=4 * BLOCK) as llm:
        yield llm


def ends_in_nan(llm: LLM, prompt: Ids) -> Request:
    [request] = submit_to(llm.engine, prompt, PARAMS)
    while llm.engine.scheduler.has_work:
        llm.engine.step()
    assert request.finish_reason == "error"
    assert isinstance(request.error, NumericalError)
    return request


def without_42(tokens: Ids) -> Ids:
    return [token for token in tokens if token != 42]


@pytest.mark.parametrize("at", [0, 20, 50, 79])
def test_blocks_that_led_to_nan_are_never_found(with_nan: LLM, cold: LLM, at: int) -> None:
    prompt = without_42(ids(90))[:80]
    unsound = [*prompt[:at], 42, *prompt[at + 1 :]]
    assert ends_in_nan(with_nan, unsound).answer == []
    assert with_nan.engine.prefix_cache.pool.cached == 0
    assert cached(with_nan, lambda: ends_in_nan(with_nan, unsound)) == 0
    found = cached(
        with_nan,
        lambda: confirm_answer(cold, prompt, with_nan.generate(prompt, PARAMS).token_ids, PARAMS),
    )
    assert found == 0


def test_nan_leaves_the_verified_blocks_before_it(with_nan: LLM, cold: LLM) -> None:
    prompt = without_42(ids(90))[:50]
    with_nan.generate(prompt, PARAMS)
    assert cached(with_nan, lambda: ends_in_nan(with_nan, [*prompt[:45], 42])) == 45
    found = cached(
        with_nan,
        lambda: confirm_answer(cold, prompt, with_nan.generate(prompt, PARAMS).token_ids, PARAMS),
    )
    assert found == 49


def test_nan_in_the_middle_of_a_completion_keeps_the_tokens_before_it(
    with_nan: LLM, cold: LLM
) -> None:
    """The token itself was drawn from numbers; the row after it was none."""
    prompt = without_42(ids(60))[:30]
    params = replace(PARAMS, logit_bias={42: 1000.0})
    [request] = submit_to(with_nan.engine, prompt, params)
    while with_nan.engine.scheduler.has_work:
        with_nan.engine.step()
    assert request.answer == [42]
    assert isinstance(request.error, NumericalError)
    assert with_nan.engine.metrics.drawn_tokens == 1
    assert cached(with_nan, lambda: ends_in_nan(with_nan, [*prompt, 42, 5])) <= len(prompt)
    confirm_answer(cold, prompt, with_nan.generate(prompt, PARAMS).token_ids, PARAMS)


def test_blocks_that_held_nan_can_be_reused(with_nan: LLM, cold: LLM) -> None:
    for seed in range(5):
        ends_in_nan(with_nan, [42] * 100)
        prompts = [without_42(ids(40, seed))[:n] for n in (1, 17, 33)]
        for prompt, one in zip(prompts, with_nan.generate(prompts, PARAMS), strict=True):
            confirm_answer(cold, prompt, one.token_ids, PARAMS)
