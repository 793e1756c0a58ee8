"""Scores of continuations: those of transformers, in every form they may be asked in."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pytest
from safetensors.numpy import load_file

from cullama import LLM, SamplingParams, Score
from cullama.errors import ClosedError, ContextLengthError, NumericalError, UsageError
from cullama.text.scoring import Pair, group_by_prompt

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir())
CASES = json.loads((FIXTURES / "scores.json").read_text(encoding="utf-8"))["text"]
BACKENDS = ["cpu", "cpu:numpy", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        gpu.require()
    return str(request.param)


@pytest.fixture(scope="module")
def text(backend: str) -> Iterator[LLM]:
    with LLM(FIXTURES / "text", backend=backend, dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, deterministic=True) as llm:
        yield llm


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["prompt"] + "|"))
def test_scores_are_those_of_transformers(text: LLM, case: dict[str, Any]) -> None:
    score = text.score(case["prompt"], case["continuation"])
    assert score.token_ids == tuple(case["ids"])
    assert score.prompt_tokens == len(case["context_ids"])
    assert np.abs(np.subtract(score.token_logprobs, case["logprobs"])).max() <= 1e-4
    assert score.logprob == pytest.approx(sum(case["logprobs"]), abs=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-np.mean(case["logprobs"])), rel=1e-4)
    assert score.is_greedy == case["is_greedy"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("start", [1, 7])
def test_scores_of_every_family_are_those_of_transformers(name: str, start: int) -> None:
    folder = FIXTURES / "models" / name
    expected = load_file(folder / "expected.safetensors")
    ids, logits = expected["ids"].tolist(), expected["logits"].astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    with LLM(folder, dtype="float32") as llm:
        score = llm.score(ids[:start], ids[start:])
    rows = range(start - 1, len(ids) - 1)
    wanted = [logprobs[row, ids[row + 1]] for row in rows]
    assert np.abs(np.subtract(score.token_logprobs, wanted)).max() <= 1e-4
    assert score.is_greedy == all(logprobs[row].argmax() == ids[row + 1] for row in rows)


def test_what_greedy_decoding_says_is_greedy_and_nothing_else_is(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    said = list(llm.generate([5, 6, 7], params).token_ids)
    assert llm.score([5, 6, 7], said).is_greedy
    for place in range(6):
        other = [*said]
        other[place] = (other[place] + 1) % 300
        assert not llm.score([5, 6, 7], other).is_greedy


def test_scores_agree_with_the_logprobs_of_what_was_generated(llm: LLM) -> None:
    params = SamplingParams(max_tokens=9, seed=3, logprobs=0, ignore_eos=True)
    said = llm.generate("The old clock", params)
    assert said.logprobs is not None
    score = llm.score("The old clock", said.token_ids)
    assert score.token_logprobs == tuple(one.logprob for one in said.logprobs)


PROMPTS = ["Once upon a time", "The old clock in the hall", "Once upon a time a small llama"]
ENDINGS = [" went over the hill", " struck twelve", " 🦙", "."]


@pytest.mark.parametrize("backend", ["cpu", "cpu:numpy"])
def test_deterministic_scores_are_the_same_bits_in_any_batch(
    tiny_model: Path, backend: str
) -> None:
    with LLM(tiny_model, backend=backend, deterministic=True) as llm:
        together = llm.score(PROMPTS, [ENDINGS] * 3)
        for prompt, scores in zip(PROMPTS, together, strict=True):
            for ending, score in zip(ENDINGS, scores, strict=True):
                for _ in range(2):
                    alone = llm.score(prompt, ending)
                    assert alone.token_logprobs == score.token_logprobs
                    assert alone.is_greedy == score.is_greedy


def test_lists_are_answered_in_the_form_in_which_they_were_asked(llm: LLM) -> None:
    def logprobs(found: Any) -> Any:
        return found.logprob if isinstance(found, Score) else [logprobs(one) for one in found]

    one = [[llm.score(prompt, ending).logprob for ending in ENDINGS] for prompt in PROMPTS]
    assert logprobs(llm.score(PROMPTS[0], ENDINGS)) == one[0]
    assert logprobs(llm.score(PROMPTS, ENDINGS[0])) == [row[0] for row in one]
    assert logprobs(llm.score(PROMPTS, ENDINGS[:3])) == [one[i][i] for i in range(3)]
    assert logprobs(llm.score(PROMPTS, [ENDINGS, ENDINGS[0], ENDINGS[1:]])) == [
        one[0],
        one[1][0],
        one[2][1:],
    ]
    assert llm.score(PROMPTS[0], []) == []
    assert llm.score([], []) == []


def test_ids_and_texts_can_be_mixed(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    ending = llm.tokenizer.encode(" there", add_special_tokens=False)
    expected = llm.score("Once upon a time", " there")
    assert llm.score(ids, ending).token_logprobs == expected.token_logprobs
    assert llm.score(ids, " there").token_logprobs == expected.token_logprobs
    assert llm.score("Once upon a time", np.array(ending)).token_logprobs == (
        expected.token_logprobs
    )


def test_white_space_at_the_prompt_s_end_is_scored_with_the_continuation(llm: LLM) -> None:
    expected = llm.score("Once upon a time", " \n there")
    found = llm.score("Once upon a time \n ", "there")
    assert (found.token_ids, found.token_logprobs) == (expected.token_ids, expected.token_logprobs)


def test_an_empty_prompt_is_bos(llm: LLM) -> None:
    own = llm.tokenizer.encode("The old clock", add_special_tokens=False)
    expected = llm.score([0], own).token_logprobs
    assert llm.score("", "The old clock").token_logprobs == expected
    assert llm.score("", own).token_logprobs == expected
    assert llm.score("", "<|begin|>The old clock").token_logprobs == expected
    spaced = llm.tokenizer.encode(" The old clock", add_special_tokens=False)
    assert llm.score(" ", "The old clock").token_ids == tuple(spaced)


def test_a_continuation_without_a_token_of_its_own_is_refused(llm: LLM) -> None:
    for empty in ("", ()):
        with pytest.raises(UsageError, match=r"the continuation is .* at least one token"):
            llm.score("Once", [empty])
    merged = next(
        (text[:1], text[1:])
        for token in range(3, 300)
        if len(text := llm.tokenizer.decode([token])) == 2 and text.isalpha() and text.isascii()
    )
    with pytest.raises(UsageError, match="share a token"):
        llm.score(*merged)


@pytest.mark.parametrize(
    ("prompt", "continuation", "message"),
    [
        (["a", "b"], ["c"], "2 prompts and 1 continuations"),
        (5, "a", "the prompt is 5"),
        ("a", 5, "the prompt is 5"),
        ([5, 300], [7], "token ids below 300"),
        ([5], [-1], "token ids below 300"),
        ("\ud800", "a", "well-formed unicode"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    llm: LLM, prompt: Any, continuation: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        llm.score(prompt, continuation)


def test_a_pair_may_be_a_token_longer_than_the_context(llm: LLM) -> None:
    ids = np.random.default_rng(0).integers(3, 300, 130).tolist()
    assert len(llm.score(ids[:100], ids[100:129]).token_logprobs) == 29
    with pytest.raises(ContextLengthError, match="does not fit the context of 128"):
        llm.score(ids[:100], ids[100:])
    assert llm.scorer.longest == 129
    fitting = llm.scorer.fitting(Pair(ids[:100], ids[100:]))
    assert fitting == Pair(ids[1:100], ids[100:])
    assert len(llm.score(*fitting).token_logprobs) == 30


def test_the_continuations_of_one_prompt_share_its_prefill(tiny_model: Path) -> None:
    with LLM(tiny_model) as llm:
        ids = np.random.default_rng(0).integers(3, 300, 60).tolist()
        first, *others = llm.score(ids, [[5, 6], [7, 8], [9]])
        assert first.cached_tokens == 0
        assert [other.cached_tokens for other in others] == [59, 59]  # the last one is needed
        steps = llm.engine.metrics.steps
        llm.score(ids[:20], [[5, 6], [7, 8], [9]])
        assert llm.engine.metrics.steps == steps + 1  # as fast as waiting for the first
        assert llm.engine.scheduler.has_work is False


def test_pairs_are_grouped_by_prompts_that_are_long_enough() -> None:
    pairs = [Pair([prompt] * 32, [0]) for prompt in (1, 1, 2, 1, 2, 3)]
    assert group_by_prompt(pairs, range(6)) == ([0, 2, 5], {0: [1, 3], 2: [4]})
    assert group_by_prompt(pairs, range(1, 4)) == ([1, 2], {1: [3]})
    short = [Pair(prompt[1:], [0]) for prompt, _ in pairs]
    assert group_by_prompt(short, range(6)) == ([0, 1, 2, 3, 4, 5], {})


def test_many_pairs_are_scored_with_progress(llm: LLM) -> None:
    rng, seen = np.random.default_rng(0), []
    pairs = [
        Pair(rng.integers(3, 300, 1 + i % 7).tolist(), rng.integers(3, 300, 1 + i % 3).tolist())
        for i in range(300)
    ]
    scores = llm.scorer.score_pairs(pairs, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 300) for done in range(1, 301)]
    for index in (0, 127, 128, 299):
        assert scores[index].token_logprobs == llm.score(*pairs[index]).token_logprobs


def test_nan_is_an_error_and_leaves_no_request_behind(
    tmp_path: Path, write_model: Any, tiny_tensors: dict[str, Any]
) -> None:
    tiny_tensors["model.embed_tokens.weight"][42] = np.nan
    with LLM(write_model(tmp_path, tiny_tensors)) as llm:
        with pytest.raises(NumericalError):
            llm.score([5, 42], [[6, 7], [8]])
        while llm.engine.has_work:
            llm.engine.step()
        assert llm.engine.prefix_cache.pool.referenced == 0
        assert llm.score([5, 6], [7, 42]).logprob < 0


def test_a_closed_model_scores_nothing(tiny_model: Path) -> None:
    llm = LLM(tiny_model)
    llm.close()
    with pytest.raises(ClosedError):
        llm.score("a", " b")


def test_a_score_cannot_be_changed_and_can_be_sent(llm: LLM) -> None:
    score = llm.score("The old", " clock")
    assert pickle.loads(pickle.dumps(score)) == score
    with pytest.raises(FrozenInstanceError):
        score.is_greedy = True  # type: ignore[misc]
