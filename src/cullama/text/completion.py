"""Holds the result of a request: its text, its tokens, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.request import FinishReason
from ..notebook.completion import completion_html
from ..sampling.params import TokenLogprobs


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds."""

    first_token: float  # from the request to its first token
    total: float  # from the request to its end
    compiling: float = 0.0  # of `first_token`: of kernels, which are kept for the next start

    def prefill_rate(self, tokens: int) -> float:
        """Tokens a second until the first one, compiling aside; 0 where that took no time."""
        seconds = self.first_token - self.compiling
        return tokens / seconds if seconds > 0 else 0.0

    def decode_rate(self, tokens: int) -> float:
        """Tokens a second after the first one; 0 where there was none after it."""
        seconds = self.total - self.first_token
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0.0


@dataclass(frozen=True, repr=False)
class Completion:
    """The result of a request. `print` shows its text; a notebook's cell shows its tokens.

    Two are equal where the same was generated for as long a prompt with the same seed, however
    long that took and whatever was cached.

    Attributes:
        text: the complete characters of the answer, without the end token or stop string; empty
            where the model came without a tokenizer.
        token_ids: every token drawn, the end token included.
        finish_reason: "stop" (end token or stop string), "length" or "cancelled".
        stop_reason: the stop string, or the id of the end token, where that is "stop"; else None.
        logprobs: one entry a token where `SamplingParams.logprobs` asked for them.
        prompt_logprobs: one entry a token of the prompt where `SamplingParams.prompt_logprobs`
            asked for them, None for the first, which nothing predicts.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of those, how many were found in the prefix cache.
        seed: what `SamplingParams.seed` was, or the seed that was drawn for it.
        timings: how long it took.
        alternatives: the other answers where `SamplingParams.n` is above 1.
        token_texts: what each token named in `logprobs` or `prompt_logprobs` spells by itself, by
            its id; a part of a character is written as its bytes, `\\xe2`.
        message: of chats, streamed or not, the answer as a message to go on with: its content, and
            apart from that `reasoning_content` and `tool_calls`; with what it went on with, if it
            did.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None
    prompt_tokens: int
    cached_tokens: int = field(compare=False)
    seed: int
    timings: Timings = field(compare=False)
    alternatives: tuple[Completion, ...] = ()
    stop_reason: str | int | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    token_texts: Mapping[int, str] = field(default_factory=dict, compare=False)
    message: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one; 0 where there was none after it."""
        return self.timings.decode_rate(len(self.token_ids))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        begun = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        others = f", {len(self.alternatives)} alternatives" if self.alternatives else ""
        return f"Completion({begun!r}, {len(self.token_ids)} tokens, {self.finish_reason}{others})"

    def _repr_html_(self) -> str:
        return completion_html((self, *self.alternatives))
