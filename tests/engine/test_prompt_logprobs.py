"""Log-probabilities of prompts: right at every position, in any chunking, cache and company."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device import Device
from live import BLOCK, CONTEXT, DRAWN, GREEDY, REPETITIVE, Ids, Open, ids, is_idle, run, submit_to

from cullama import LLM, Completion, SamplingParams
from cullama.engine.client import GenerationRequest, RequestOutput
from cullama.engine.engine import Engine, EngineHandle
from cullama.engine.prompt_logprobs import PromptLogprobs
from cullama.engine.request import Request
from cullama.errors import ContextLengthError, NumericalError, UsageError
from cullama.sampling.params import TokenLogprobs

SCORE = SamplingParams(max_tokens=0, prompt_logprobs=2)
LIMITS: list[dict[str, int]] = [
    {},
    {"budget": 7, "max_running": 3},
    {"budget": 40, "max_running": 16, "blocks": 8},
]
LIMIT_NAMES = ["roomy", "a few tokens a step", "short of blocks"]


def confirm(cold: LLM, prompt: Sequence[int], found: Sequence[TokenLogprobs | None] | None) -> None:
    """Whether these are the prompt's log-probabilities, and the likeliest tokens in its place."""
    assert found is not None
    assert found[0] is None
    assert len(found) == len(prompt)
    if len(prompt) == 1:
        return
    logits = cold.logits(list(prompt[:-1])).astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    for row, token, one in zip(expected, prompt[1:], found[1:], strict=True):
        assert one is not None
        assert one.token_id == token
        assert one.logprob == pytest.approx(row[token], abs=1e-4)
        numbers = [number for _, number in one.top]
        assert numbers == pytest.approx(sorted(row)[::-1][: len(numbers)], abs=1e-4)
        assert [row[likely] for likely, _ in one.top] == pytest.approx(numbers, abs=1e-4)


def prompts(count: int, seed: int = 0) -> list[Ids]:
    """Prompts of 1 to 90 tokens; many begin as an earlier one does."""
    draw, made = random.Random(seed), [ids(64)]
    while len(made) < count:
        begin = draw.choice(made)[: draw.randrange(0, 60)]
        made.append([*begin, *(draw.randrange(3, 300) for _ in range(draw.randrange(1, 30)))])
    return made


@pytest.mark.parametrize("limits", LIMITS, ids=LIMIT_NAMES)
@pytest.mark.parametrize(
    "params",
    [
        SCORE,
        replace(SCORE, max_tokens=30, seed=3),
        replace(DRAWN, prompt_logprobs=0, n=3, logprobs=1),
    ],
    ids=["alone", "with an answer", "of three samples"],
)
def test_every_position_is_scored_in_any_chunking_and_company(
    open_llm: Open, cold: LLM, limits: dict[str, int], params: SamplingParams
) -> None:
    llm, asked = open_llm(**limits), prompts(20)
    completions = llm.generate(asked, params)
    plain = (
        []
        if params.max_tokens == 0
        else cold.generate(asked, replace(params, prompt_logprobs=None))
    )
    for prompt, completion in zip(asked, completions, strict=True):
        for one in (completion, *completion.alternatives):
            confirm(cold, prompt, one.prompt_logprobs)
            assert set(one.token_texts) >= set(prompt[1:])
    for other, completion in zip(plain, completions, strict=False):
        assert completion.token_ids == other.token_ids
        assert [a.token_ids for a in completion.alternatives] == [
            a.token_ids for a in other.alternatives
        ]
    assert is_idle(llm.engine)


def test_a_prompt_preempted_while_it_is_scored_goes_on_where_it_was(
    open_llm: Open, cold: LLM
) -> None:
    llm, prompt = open_llm(blocks=4, budget=20, max_running=4), ids(100)
    [scored] = submit_to(llm.engine, prompt, SCORE)
    llm.engine.step()
    llm.engine.step()
    assert scored.unscored == 41
    [urgent] = submit_to(llm.engine, ids(40, 9), GREEDY, priority=1)
    run(llm.engine, urgent)
    assert llm.engine.metrics.preemptions == 1
    assert scored.unscored == 41
    run(llm.engine)
    assert scored.prompt_logprobs is not None
    confirm(cold, prompt, [None, *scored.prompt_logprobs.values])
    assert is_idle(llm.engine)


@pytest.mark.parametrize("backend", ["cpu:numpy", "cpu"])
def test_deterministic_scores_are_the_same_bits_in_any_batch(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    asked = prompts(12)
    with LLM(tiny_model, backend=backend, deterministic=True) as llm:
        together = [one.prompt_logprobs for one in llm.generate(asked, SCORE)]
        alone = [llm.generate(prompt, SCORE).prompt_logprobs for prompt in asked]
    monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", 5)
    monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", 3)
    with LLM(tiny_model, backend=backend, deterministic=True) as llm:
        in_chunks = [one.prompt_logprobs for one in llm.generate(asked, SCORE)]
    assert together == alone == in_chunks


@pytest.mark.parametrize("limits", LIMITS, ids=LIMIT_NAMES)
@pytest.mark.parametrize("n", [1, 3])
def test_an_answer_that_was_begun_goes_on_the_same_and_is_scored_like_its_prompt(
    open_llm: Open, cold: LLM, limits: dict[str, int], n: int
) -> None:
    llm, asked = open_llm(**limits), prompts(9)
    params = replace(DRAWN, prompt_logprobs=2, n=n)
    begun = [
        (prompt, cold.generate(prompt, DRAWN).token_ids[: 1 + 2 * index])
        for index, prompt in enumerate(asked)
    ]
    submitted = [
        llm.engine.submit(
            GenerationRequest(prompt, replace(params, max_tokens=24 - len(answer)), answer=answer)
        )
        for prompt, answer in begun
    ]
    run(llm.engine)
    for (prompt, answer), handles in zip(begun, submitted, strict=True):
        first, *others = [handle.read() for handle in handles]
        assert (*answer, *first.token_ids) == cold.generate(prompt, DRAWN).token_ids
        for output in (first, *others):
            assert len(output.token_ids) == 24 - len(answer)
            confirm(cold, [*prompt, *answer], [None, *output.prompt_logprobs])
    assert is_idle(llm.engine)


def test_a_prompt_that_is_in_the_prefix_cache_is_scored_in_full(llm: LLM, cold: LLM) -> None:
    prompt = ids(90)
    for _ in range(2):
        llm.generate(prompt, GREEDY)
        completion = llm.generate(prompt, SCORE)
        confirm(cold, prompt, completion.prompt_logprobs)
        assert completion.cached_tokens == 0
    assert llm.generate(prompt, GREEDY).cached_tokens == 89  # others find what was scored


def test_a_prompt_that_was_only_scored_is_found_in_the_prefix_cache(llm: LLM, cold: LLM) -> None:
    prompt = ids(90)
    llm.generate(prompt, SCORE)
    longer = llm.generate([*prompt, 7, 8], replace(GREEDY, logprobs=1))
    assert longer.cached_tokens == 89  # the last one did not go through the model
    assert longer.token_ids == cold.generate([*prompt, 7, 8], GREEDY).token_ids


@pytest.mark.parametrize("start", [1, 9, 31, 32, 33, 64, 88, 89])
def test_what_comes_before_the_first_scored_position_is_taken_from_the_cache(
    llm: LLM, cold: LLM, start: int
) -> None:
    prompt = ids(90)
    llm.generate(prompt, GREEDY)
    [handle] = llm.engine.submit(GenerationRequest(prompt, SCORE, logprobs_start=start))
    run(llm.engine)
    output = handle.read()
    assert output.cached_tokens == (start - 1 if start > 8 else 0)
    expected = cold.generate(prompt, SCORE).prompt_logprobs or ()
    assert len(output.prompt_logprobs) == 90 - start
    for one, other in zip(output.prompt_logprobs, expected[start:], strict=True):
        assert other is not None
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def passes_of(engine: Engine) -> list[tuple[int, int]]:
    """Fills with the tokens and the rows of logits of every later pass."""
    passes: list[tuple[int, int]] = []
    forward = engine.runner.forward

    def counted(batch: Any) -> Any:
        passes.append((len(batch.tokens), len(batch.logit_rows)))
        return forward(batch)

    engine.runner.forward = counted
    return passes


def test_a_pass_holds_a_bounded_number_of_rows_of_logits(
    open_llm: Open, cold: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.engine.engine.MAX_LOGIT_BYTES", 33 * 4 * 300)
    llm, asked = open_llm(), [ids(100, 1), ids(20, 2), ids(70, 3)]
    passes = passes_of(llm.engine)
    plain = llm.engine.submit(GenerationRequest(ids(40, 4), replace(GREEDY, max_tokens=1)))
    for prompt, one in zip(asked, llm.generate(asked, SCORE), strict=True):
        confirm(cold, prompt, one.prompt_logprobs)
    assert passes[0] == (40 + 33, 1 + 33)
    assert [rows for _, rows in passes[1:]] == [33, 33, 33, 33, 187 - 5 * 33]
    assert plain[0].read().finish_reason == "length"


def test_only_rows_that_are_asked_for_get_logits(llm: LLM) -> None:
    passes, prompt = passes_of(llm.engine), ids(90)
    llm.engine.submit(GenerationRequest(prompt, SCORE, logprobs_start=80))
    run(llm.engine)
    assert passes == [(89, 10)]  # the last token is only predicted


def test_the_samples_of_a_request_compute_the_prompt_s_rows_once(llm: LLM) -> None:
    passes = passes_of(llm.engine)
    completion = llm.generate(ids(50), replace(DRAWN, max_tokens=2, n=4, prompt_logprobs=0))
    assert sum(rows for _, rows in passes) == 49 + 4 * 2
    assert {one.prompt_logprobs for one in completion.alternatives} == {completion.prompt_logprobs}


def test_where_the_first_sample_is_cancelled_another_goes_on(open_llm: Open, cold: LLM) -> None:
    llm, prompt = open_llm(budget=20, max_running=4), ids(70)
    params = replace(DRAWN, max_tokens=3, n=3, prompt_logprobs=1)
    first, *others = submit_to(llm.engine, prompt, params)
    llm.engine.step()
    llm.engine.step()
    llm.engine.cancel(first)
    run(llm.engine)
    assert first.answer == []
    for one in others:
        assert one.prompt_logprobs is not None
        confirm(cold, prompt, [None, *one.prompt_logprobs.values])
        assert one.drawn == 3


def test_speculation_changes_no_score(llm: LLM, cold: LLM) -> None:
    params = replace(GREEDY, max_tokens=40, prompt_logprobs=1)
    plain = llm.generate(REPETITIVE, params)
    speculative = llm.generate(REPETITIVE, replace(params, speculation=5))
    assert llm.engine.metrics.draft_tokens > 0
    assert speculative.token_ids == plain.token_ids
    confirm(cold, REPETITIVE, speculative.prompt_logprobs)


@pytest.mark.parametrize("limits", LIMITS, ids=LIMIT_NAMES)
@pytest.mark.parametrize("max_tokens", [0, 9])
@pytest.mark.parametrize("failures", [0.0, 0.15], ids=["in order", "failing now and then"])
def test_overlapped_passes_give_the_same_scores(
    cold: LLM,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    max_tokens: int,
    failures: float,
) -> None:
    monkeypatch.setattr("cullama.llm.operators_for", lambda *arguments: Device())
    monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", limits.get("budget", 512))
    monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", limits.get("max_running", 256))
    monkeypatch.setattr("cullama.engine.engine.MAX_LOGIT_BYTES", 33 * 4 * 300)
    draw = random.Random(0)

    def broken(batch: Any) -> None:
        if len(batch.context_lengths) > 1 and draw.random() < failures:
            raise RuntimeError("now and then")

    asked = prompts(20)
    with LLM(tiny_model, cache_tokens=limits.get("blocks", 64) * BLOCK) as llm:
        ops: Any = llm.engine.runner.ops
        ops.before_pass = broken
        completions = llm.generate(asked, replace(SCORE, max_tokens=max_tokens, ignore_eos=True))
        while llm.engine.has_work:
            llm.engine.step()
        assert is_idle(llm.engine)
    for prompt, completion in zip(asked, completions, strict=True):
        confirm(cold, prompt, completion.prompt_logprobs)
        assert len(completion.token_ids) == max_tokens


@pytest.mark.parametrize("seed", range(4))
def test_requests_of_every_kind_that_come_and_go_are_scored(
    open_llm: Open, cold: LLM, seed: int
) -> None:
    draw, asked = random.Random(seed), prompts(40, seed)
    llm = open_llm(blocks=12, budget=25, max_running=9)
    running: list[tuple[Ids, Request]] = []
    for prompt in asked:
        params = draw.choice(
            [SCORE, GREEDY, replace(SCORE, max_tokens=6), replace(DRAWN, n=2, prompt_logprobs=0)]
        )
        for one in submit_to(llm.engine, prompt, params, draw.choice([0, 0, 1])):
            running.append((prompt, one))
        for _ in range(draw.randrange(3)):
            llm.engine.step()
        if draw.random() < 0.2:
            llm.engine.cancel(draw.choice(running)[1])
    run(llm.engine)
    assert is_idle(llm.engine)
    assert llm.engine.metrics.preemptions > 0
    for prompt, one in running:
        assert one.finish_reason in ("length", "stop", "cancelled")
        if one.prompt_logprobs is not None and one.finish_reason != "cancelled":
            confirm(cold, prompt, [None, *one.prompt_logprobs.values])


def test_nan_ends_the_request_that_is_scored(
    open_llm: Open, tmp_path: Path, write_model: Any, tiny_tensors: dict[str, Any]
) -> None:
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    llm = open_llm(model=write_model(tmp_path, tiny_tensors))
    with pytest.raises(NumericalError, match="logits hold nan"):
        llm.generate([5, 6, 42, 7, 8], SCORE)
    assert llm.generate([5, 6, 7], SCORE).prompt_logprobs is not None
    assert llm.generate([5, 6, 42], SCORE).prompt_logprobs is not None  # its logits are not needed
    assert is_idle(llm.engine)


def test_a_prompt_that_is_only_scored_may_be_a_token_longer_than_the_context(
    llm: LLM, cold: LLM
) -> None:
    """Its last token is predicted, and does not go through the model."""
    prompt = ids(CONTEXT + 1)
    confirm(cold, prompt, llm.generate(prompt, SCORE).prompt_logprobs)
    with pytest.raises(ContextLengthError, match=f"{CONTEXT + 1} tokens does not fit the context"):
        llm.generate([*prompt, 5], SCORE)


def test_a_prompt_that_is_only_scored_may_be_a_token_longer_than_the_cache(
    open_llm: Open, cold: LLM
) -> None:
    llm, prompt = open_llm(blocks=2), ids(2 * BLOCK + 1)
    confirm(cold, prompt, llm.generate(prompt, SCORE).prompt_logprobs)
    with pytest.raises(ContextLengthError, match="65 tokens does not fit the cache of 64"):
        llm.generate([*prompt, 5], SCORE)


def test_a_prompt_of_one_token_has_nothing_to_score(llm: LLM) -> None:
    completion = llm.generate([5], SCORE)
    assert completion.prompt_logprobs == (None,)
    assert (completion.token_ids, completion.finish_reason) == ((), "length")
    assert llm.generate([5], replace(SCORE, max_tokens=2)).prompt_logprobs == (None,)
    assert llm.engine.metrics.steps == 2


def test_scores_come_with_the_first_token_of_a_stream(llm: LLM, cold: LLM) -> None:
    stream = llm.stream(ids(40), replace(GREEDY, prompt_logprobs=1))
    next(stream)
    confirm(cold, ids(40), stream.completion.prompt_logprobs)
    assert list(llm.stream(ids(40), SCORE)) == []

    async def read() -> Completion:
        stream = llm.stream(ids(40), SCORE)
        assert [piece async for piece in stream] == []
        return stream.completion

    confirm(cold, ids(40), asyncio.run(read()).prompt_logprobs)


def test_a_request_that_is_cancelled_before_its_prompt_is_scored_has_no_scores(
    open_llm: Open,
) -> None:
    llm = open_llm(budget=20, max_running=4)
    stream = llm.stream(ids(70), replace(GREEDY, prompt_logprobs=1))
    llm.engine.step()
    stream.close()
    assert stream.completion.prompt_logprobs is None
    run(llm.engine)


def test_nothing_generated_needs_something_to_score() -> None:
    with pytest.raises(
        UsageError, match="max_tokens is 0, expected at least 1, or prompt_logprobs"
    ):
        SamplingParams(max_tokens=0)
    with pytest.raises(UsageError, match="n is 2, expected 1 where max_tokens is 0"):
        replace(SCORE, n=2)


@pytest.mark.parametrize("start", [0, -1, 90, 1.0, True, None])
def test_a_first_position_outside_the_prompt_is_refused(llm: LLM, start: Any) -> None:
    with pytest.raises(UsageError, match="logprobs_start is"):
        llm.engine.submit(GenerationRequest(ids(90), SCORE, logprobs_start=start))


def test_messages_with_scores_can_be_sent_to_another_process(llm: LLM) -> None:
    request = GenerationRequest(ids(40), SCORE, logprobs_start=30)
    assert pickle.loads(pickle.dumps(request)) == request
    [handle] = llm.engine.submit(request)
    assert isinstance(handle, EngineHandle)
    run(llm.engine)
    output = handle.read()
    assert isinstance(output, RequestOutput)
    assert pickle.loads(pickle.dumps(output)) == output
    assert len(output.prompt_logprobs) == 10


def test_positions_that_are_known_are_not_added_again() -> None:
    scored, one, other = PromptLogprobs(4), TokenLogprobs(5, -1.0, ()), TokenLogprobs(5, -2.0, ())
    for position in (1, 2, 1, 2, 3):
        assert not scored.is_complete
        scored.add(position, one if position == scored.next else other)
    assert scored.is_complete
    assert scored.values == [one] * 3
