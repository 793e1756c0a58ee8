"""Speculation changes no token: drafts are accepted, rejected, counted, and cut at every end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live import (
    DRAWN,
    GREEDY,
    REPETITIVE,
    TEXTS,
    VOCABULARY,
    Ids,
    Open,
    WriteModel,
    check_records,
    ids,
)
from oracle import confirm_answer

from cullama import LLM, Completion, SamplingParams
from cullama.engine.trace import StepRecord


def with_and_without_drafts(
    llm: LLM, prompt: Ids | str, params: SamplingParams, drafts: int = 6
) -> Completion:
    """The completion with speculation, which has to be the plain one in all but speed."""
    plain = llm.generate(prompt, replace(params, speculation=0))
    speculative = llm.generate(prompt, replace(params, speculation=drafts))
    assert speculative.token_ids == plain.token_ids
    assert speculative.text == plain.text
    assert speculative.finish_reason == plain.finish_reason
    assert (speculative.logprobs is None) == (plain.logprobs is None)
    if speculative.logprobs is not None and plain.logprobs is not None:
        assert len(speculative.logprobs) == len(speculative.token_ids)
        for one, other in zip(speculative.logprobs, plain.logprobs, strict=True):
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    return speculative


@pytest.mark.parametrize("drafts", [1, 2, 5, 64])
@pytest.mark.parametrize("prompt", [REPETITIVE, ids(36), [5], [5] * 40], ids=len)
def test_speculation_changes_no_greedy_token(llm: LLM, prompt: Ids, drafts: int) -> None:
    with_and_without_drafts(llm, prompt, replace(GREEDY, max_tokens=80), drafts)


@pytest.mark.parametrize("seed", range(20))
def test_speculation_changes_no_sampled_token(llm: LLM, seed: int) -> None:
    """The same for each seed, so the same distribution."""
    flat = replace(DRAWN, seed=seed)
    for params in (
        flat,
        replace(flat, temperature=0.2, max_tokens=60),
        replace(flat, temperature=0.3, top_p=0.8, repetition_penalty=1.1, frequency_penalty=0.2),
        replace(flat, logit_bias={70: 3.0, 71: 3.0}, top_k=5, max_tokens=60),
    ):
        with_and_without_drafts(llm, REPETITIVE, params)


@pytest.mark.parametrize("drafts", [1, 4, 64])
def test_speculation_saves_steps_where_the_text_repeats_itself(llm: LLM, drafts: int) -> None:
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    params = replace(GREEDY, max_tokens=60, logit_bias={70: 1000.0}, speculation=drafts)
    assert llm.generate([70] * 10, params).token_ids == (70,) * 60
    metrics = llm.engine.metrics
    assert metrics.steps <= 60 / (1 + drafts) + 10
    assert metrics.drawn_tokens == 60 == metrics.steps + metrics.accepted_tokens
    assert 0 < metrics.accepted_tokens <= metrics.draft_tokens
    assert metrics.acceptance_rate == metrics.accepted_tokens / metrics.draft_tokens
    check_records(llm.engine, records, budget=512)


def test_rejected_draft_tokens_are_counted_and_cost_no_token(llm: LLM) -> None:
    params = replace(GREEDY, max_tokens=20, speculation=5, logit_bias={299: 1000.0})
    speculative = with_and_without_drafts(llm, REPETITIVE, params)
    assert speculative.token_ids == (299,) * 20
    metrics = llm.engine.metrics
    assert metrics.draft_tokens >= metrics.accepted_tokens
    assert metrics.drawn_tokens == 40


@pytest.mark.parametrize("count", range(1, 20))
def test_max_tokens_cuts_in_the_middle_of_accepted_draft_tokens(llm: LLM, count: int) -> None:
    params = replace(GREEDY, max_tokens=count, logit_bias={70: 1000.0}, logprobs=1)
    speculative = with_and_without_drafts(llm, [70] * 10, params, drafts=7)
    assert speculative.token_ids == (70,) * count
    assert speculative.finish_reason == "length"


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
    """A model whose likeliest token is always the next in the circle: drafts are often right."""
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


def test_all_draft_tokens_of_a_circle_are_accepted(circle: LLM) -> None:
    speculative = with_and_without_drafts(
        circle, circle_from(73, 15), replace(GREEDY, max_tokens=90)
    )
    assert list(speculative.token_ids) == circle_from(73, 105)[15:]
    assert circle.engine.metrics.steps < 90 + 20
    assert circle.engine.metrics.acceptance_rate == 1


@pytest.mark.parametrize("temperature", [0.4, 0.5, 0.6])
def test_draft_tokens_accepted_now_and_then_change_no_sampled_token(
    circle: LLM, temperature: float
) -> None:
    for seed in range(20):
        params = replace(DRAWN, seed=seed, temperature=temperature, max_tokens=60, logprobs=0)
        with_and_without_drafts(circle, circle_from(73, 15), params)
    metrics = circle.engine.metrics
    assert 0.05 < metrics.acceptance_rate < 0.95
    assert metrics.accepted_tokens > 20
    assert metrics.drawn_tokens == 2 * 20 * 60


@pytest.mark.parametrize("wish", ["stop_token_ids", "stop", "max_tokens"])
def test_every_end_cuts_in_the_middle_of_accepted_draft_tokens(circle: LLM, wish: str) -> None:
    prompt, params = circle_from(73, 15), replace(GREEDY, max_tokens=40, logprobs=1)
    whole = circle.generate(prompt, params)
    for count in range(1, 24):
        last = whole.token_ids[count - 1]
        first = whole.token_ids.index(last) + 1  # where it is drawn for the first time
        if wish == "max_tokens":
            cut = with_and_without_drafts(circle, prompt, replace(params, max_tokens=count))
            assert cut.token_ids == whole.token_ids[:count]
        elif wish == "stop_token_ids":
            cut = with_and_without_drafts(circle, prompt, replace(params, stop_token_ids=(last,)))
            assert cut.token_ids == whole.token_ids[:first]
            assert cut.finish_reason == "stop"
        else:
            stop = whole.text[count : count + 2]
            cut = with_and_without_drafts(circle, prompt, replace(params, stop=(stop,)))
            assert cut.text == whole.text[: whole.text.index(stop)]
            assert cut.finish_reason == "stop"
    assert circle.engine.metrics.accepted_tokens > 50


def test_the_end_token_cuts_in_the_middle_of_accepted_draft_tokens(circle: LLM) -> None:
    """It is one of the circle 0 … 9, and is drafted like any other."""
    for start in range(2, 8):
        prompt = [*circle_from(0, 12), *circle_from(start, 1)]
        ended = with_and_without_drafts(circle, prompt, replace(GREEDY, ignore_eos=False))
        assert list(ended.token_ids) == circle_from(start + 1, 13)[: (1 - start) % 10]
        assert ended.finish_reason == "stop"


def test_streams_with_speculation_give_the_text_of_those_without(circle: LLM) -> None:
    params = replace(GREEDY, max_tokens=80)
    for prompt in (TEXTS[0], " llama" * 12, circle_from(73, 15)):
        plain = "".join(circle.stream(prompt, params))
        stream = circle.stream(prompt, replace(params, speculation=5))
        assert "".join(stream) == plain
        assert stream.completion.finish_reason == "length"
    assert circle.engine.metrics.accepted_tokens > 100


def test_accepted_draft_tokens_are_found_in_the_prefix_cache(circle: LLM) -> None:
    """Its own tokens, and not the drafts that were wrong."""
    for seed in range(20):
        prompt = circle_from(73, 15)
        params = replace(DRAWN, seed=seed, temperature=0.6, max_tokens=50, speculation=6)
        answer = circle.generate(prompt, params).token_ids
        text = [*prompt, *answer, 5]
        before = circle.engine.metrics.cached_tokens
        again = circle.generate(text, replace(GREEDY, logprobs=0))
        assert circle.engine.metrics.cached_tokens - before == len(text) - 2
        confirm_answer(circle, text, again.token_ids, GREEDY)


def test_draft_tokens_fit_the_cache_and_the_budget(open_llm: Open, cold: LLM) -> None:
    """Where there is no room for a draft there is room for the token."""
    llm = open_llm(blocks=2, budget=5, max_running=2)
    records: list[StepRecord] = []
    llm.engine.observers.append(records.append)
    params = replace(GREEDY, max_tokens=65 - 30, speculation=64)
    answer = llm.generate([70, 71] * 15, params).token_ids
    confirm_answer(cold, [70, 71] * 15, answer, params)
    check_records(llm.engine, records, budget=5)
