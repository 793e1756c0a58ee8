"""Perplexity of a text: how well a model predicts each of its tokens from those before it.

A text longer than the window is taken in steps of `stride` tokens. Each token is predicted once,
behind at most `window` tokens: the first step behind the model's BOS, every later one behind what
comes before it in the text, of which there are at least `window − stride` tokens. With the stride
as long as the window, that is `loglikelihood_rolling` of lm-evaluation-harness; with a shorter one,
the sliding window of transformers' guide to perplexity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Any

from ...errors import UsageError
from ...llm import LLM
from ...text.scoring import Pair, Progress
from .figures import Mean

MAX_WINDOW = 2048  # tokens, by default


@dataclass(frozen=True)
class PerplexityReport:
    """The result of one text."""

    tokens: int
    characters: int
    bytes: int  # of UTF-8
    words: int  # as white space separates them
    window: int
    stride: int
    nll: Mean  # negative log-probability of a token, in nats

    @property
    def perplexity(self) -> Mean:
        """e to the mean; its error is that of the mean, times the derivative."""
        value = _exp(self.nll.value)
        return Mean(value, None if self.nll.stderr is None else value * self.nll.stderr)

    @property
    def word_perplexity(self) -> float:
        return _exp(self.nll.value * self.tokens / self.words)

    @property
    def bits_per_byte(self) -> float:
        return self.nll.value * self.tokens / self.bytes / log(2)

    def __str__(self) -> str:
        return (
            f"tokens           {self.tokens}, in windows of {self.window}, stride {self.stride}\n"
            f"perplexity       {self.perplexity}\n"
            f"word perplexity  {self.word_perplexity:.4g}\n"
            f"bits per byte    {self.bits_per_byte:.4f}"
        )

    def as_json(self) -> dict[str, Any]:
        perplexity = self.perplexity
        return {
            "tokens": self.tokens,
            "characters": self.characters,
            "bytes": self.bytes,
            "words": self.words,
            "window": self.window,
            "stride": self.stride,
            "logprob": -self.nll.value * self.tokens,
            "nats_per_token": self.nll.value,
            "perplexity": perplexity.value,
            "perplexity_stderr": perplexity.stderr,
            "word_perplexity": self.word_perplexity if isfinite(self.word_perplexity) else None,
            "bits_per_byte": self.bits_per_byte,
        }


def measure_perplexity(
    llm: LLM,
    text: str,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    progress: Progress = lambda done, total: None,
) -> PerplexityReport:
    """Measure the perplexity of a text.

    Args:
        window: tokens that go through the model at once; None takes the context, up to 2,048.
        stride: tokens that are predicted in each window; None takes the whole window.
        limit: take so many tokens of the text.
        progress: called with (windows done, windows in all).

    Raises:
        UsageError: an empty text; a window that does not fit, a stride longer than it.
    """
    scorer = llm.scorer
    longest = scorer.longest - 1
    window = min(longest, MAX_WINDOW) if window is None else window
    if not 1 <= window <= longest:
        raise UsageError(f"window is {window}, expected 1 to {longest}, the context length")
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise UsageError(f"stride is {stride}, expected 1 to {window}, the window")
    ids = llm.tokenizer.encode(text, add_special_tokens=False)
    if limit is not None and limit < len(ids):
        ids = ids[:limit]
        text = llm.tokenizer.decode(ids, skip_special_tokens=False)
    if not ids or not text.strip():
        raise UsageError("the text is empty, expected at least one word")
    if not scorer.first_ids:
        raise UsageError("the model knows no BOS or end token to begin a text with")
    scores = scorer.score_pairs(
        list(split_windows(ids, scorer.first_ids, window, stride)), progress
    )
    losses = [-logprob for score in scores for logprob in score.token_logprobs]
    return PerplexityReport(
        tokens=len(ids),
        characters=len(text),
        bytes=len(text.encode()),
        words=len(text.split()),
        window=window,
        stride=stride,
        nll=Mean.of(losses),
    )


def split_windows(
    ids: Sequence[int], first_ids: Sequence[int], window: int, stride: int
) -> Iterator[Pair]:
    """Split a text's tokens into windows: what each predicts, behind what.

    The first predicts as many as the window holds.
    """
    start = min(window, len(ids))
    yield Pair(list(first_ids), list(ids[:start]))
    while start < len(ids):
        end = min(start + stride, len(ids))
        begin = max(0, end - 1 - window)
        yield Pair(list(ids[begin:start]), list(ids[start:end]))
        start = end


def _exp(value: float) -> float:
    """Return e to a power; infinity where no number is as large, as of words of many tokens."""
    try:
        return exp(value)
    except OverflowError:
        return inf
