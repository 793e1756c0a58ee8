"""Perplexity: every token of a text predicted once, in windows, as others measure it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama import LLM
from cullama.benchmark.evaluation.perplexity import measure_perplexity, split_windows
from cullama.errors import UsageError

TEXT = "The old clock in the hall struck twelve, and nobody was there. 🦙 naïve " * 6


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, deterministic=True) as llm:
        yield llm


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_predict_each_token_once_behind_what_precedes_it(
    length: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    ids = list(range(100, 100 + length))
    pairs = list(split_windows(ids, [0], window, stride))
    assert [token for pair in pairs for token in pair.continuation] == ids
    text = [0, *ids]
    for number, pair in enumerate(pairs):
        whole = pair.prompt + pair.continuation
        start = text.index(whole[0])
        assert text[start : start + len(whole)] == whole  # a piece of the text
        assert len(whole) - 1 <= window
        if number:
            assert len(whole) - 1 == window  # as much context as there is room for
            assert len(pair.prompt) >= window - stride


def test_windows_are_those_of_the_harness_s_rolling_loglikelihood() -> None:
    """The example of lm-evaluation-harness's documentation: ten tokens, a context of four."""
    pairs = list(split_windows(range(10), [99], 4, 4))
    assert [(pair.prompt, pair.continuation) for pair in pairs] == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


def test_a_text_within_one_window_is_what_score_says(llm: LLM) -> None:
    text = "The old clock in the hall struck twelve"
    report, score = measure_perplexity(llm, text), llm.score("", text)
    assert report.tokens == len(score.token_ids)
    assert report.perplexity.value == pytest.approx(score.perplexity)
    assert report.nll.value == pytest.approx(-score.logprob / report.tokens)
    assert report.bits_per_byte == pytest.approx(-score.logprob / math.log(2) / len(text.encode()))
    assert report.word_perplexity == pytest.approx(math.exp(-score.logprob / 8))
    assert (report.words, report.characters) == (8, len(text))


@pytest.mark.parametrize(("window", "stride"), [(128, None), (40, 40), (40, 10), (7, 1)])
def test_each_token_s_loss_is_that_of_its_window(llm: LLM, window: int, stride: int | None) -> None:
    ids = llm.tokenizer.encode(TEXT, add_special_tokens=False)
    report = measure_perplexity(llm, TEXT, window, stride)
    losses: list[float] = []
    for prompt, continuation in split_windows(ids, [0], window, stride or window):
        logits = llm.logits([*prompt, *continuation][:-1])[len(prompt) - 1 :].astype(np.float64)
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        losses += [-row[token] for row, token in zip(logprobs, continuation, strict=True)]
    assert report.tokens == len(ids) == len(losses)
    assert report.nll.value == pytest.approx(np.mean(losses), abs=1e-5)
    error = np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert report.nll.stderr == pytest.approx(error, abs=1e-5)
    assert report.perplexity.stderr == pytest.approx(math.exp(np.mean(losses)) * error, rel=1e-4)


def test_a_limit_takes_the_first_tokens(llm: LLM) -> None:
    report = measure_perplexity(llm, TEXT, limit=30)
    assert report.tokens == 30
    assert 0 < report.bytes < len(TEXT.encode())
    assert measure_perplexity(llm, TEXT, limit=10**6) == measure_perplexity(llm, TEXT)


def test_progress_counts_windows(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    measure_perplexity(llm, TEXT, 40, 40, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 129}, "window is 129, expected 1 to 128"),
        ({"window": 0}, "window is 0"),
        ({"window": 20, "stride": 21}, "stride is 21, expected 1 to 20"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    llm: LLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        measure_perplexity(llm, TEXT, **options)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_refused(llm: LLM, text: str) -> None:
    with pytest.raises(UsageError, match="the text is empty"):
        measure_perplexity(llm, text)


def test_words_of_many_tokens_have_an_infinite_perplexity(llm: LLM) -> None:
    report = measure_perplexity(llm, "🦙" * 100)
    assert report.words == 1
    assert report.word_perplexity == math.inf
    assert report.perplexity.value < math.inf
    assert report.as_json()["word_perplexity"] is None


def test_a_model_without_a_first_token_needs_one(
    tmp_path: Path, write_model: Any, tokenizer_file: Path
) -> None:
    folder = write_model(tmp_path, tokenizer=tokenizer_file, bos_token_id=None, eos_token_id=None)
    with LLM(folder) as llm, pytest.raises(UsageError, match="no BOS or end token"):
        measure_perplexity(llm, TEXT)
