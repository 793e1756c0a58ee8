"""What one draw of a token needs, and what it gives: records only, without arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .params import SamplingParams, TokenLogprobs


class Draw(NamedTuple):
    """One token to be drawn: the request's parameters, and its tokens so far."""

    params: SamplingParams
    seed: int
    sample_index: int  # which of the request's n samples
    tokens: Sequence[int]  # prompt and completion so far
    prompt_length: int

    @property
    def position(self) -> int:
        """The drawn token's index in the completion: the counter of the random numbers."""
        return len(self.tokens) - self.prompt_length


class Drawn(NamedTuple):
    """A drawn token; its log-probabilities where the request asks for them."""

    token: int
    logprobs: TokenLogprobs | None
