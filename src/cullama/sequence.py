"""One text being continued: its tokens, how many of them the model has seen, where it keeps them.

Integers only. A sequence whose `computed` is smaller than its length has catching up to do; a
prompt and a single new token differ in nothing but how much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .sampling import Draw, Drawn, SamplingParams, TokenLogprobs

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(eq=False)
class Sequence:
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    seed: int
    end_ids: frozenset[int]  # tokens that end it
    index: int = 0  # which of a request's n samples
    answer: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    computed: int = 0  # tokens whose keys and values are in the cache
    blocks: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def pending(self) -> int:
        """Tokens the model has not seen."""
        return len(self.prompt) + len(self.answer) - self.computed

    @property
    def longest(self) -> int:
        """Tokens the cache must have room for; the last one drawn is never fed back."""
        return len(self.prompt) + self.max_tokens - 1

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def next_tokens(self, count: int) -> list[int]:
        """The first `count` tokens that the model has not seen."""
        start = self.computed - len(self.prompt)
        if start >= 0:
            return self.answer[start : start + count]
        return (self.prompt[self.computed :] + self.answer)[:count]

    def draw(self) -> Draw:
        return Draw(self.params, self.seed, self.index, self.prompt, self.answer)

    def append(self, drawn: Drawn) -> None:
        """Take a new token, and see whether it is the last."""
        self.answer.append(drawn.token)
        if drawn.logprobs is not None:
            self.logprobs.append(drawn.logprobs)
        if drawn.token in self.end_ids:
            self.finish_reason = "stop"
        elif len(self.answer) >= self.max_tokens:
            self.finish_reason = "length"
