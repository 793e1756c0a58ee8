"""What one draw of a token needs, and what it gives: records only, without arrays.

A token that is given is not drawn: only its log-probability is asked for, as for a prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .params import SamplingParams, TokenLogprobs


class Draw(NamedTuple):
    """One token to be drawn, or given: the request's parameters, and its tokens so far."""

    params: SamplingParams
    seed: int
    sample_index: int  # which of the request's n samples
    tokens: Sequence[int]  # prompt and completion so far
    prompt_length: int
    given: int | None = None  # a token of the prompt, in place of one that is drawn
    mask: bytes | None = None  # a bit for each token: which may be drawn; the lowest bit first

    @property
    def position(self) -> int:
        """The drawn token's index in the completion: the counter of the random numbers."""
        return len(self.tokens) - self.prompt_length

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are reported; None: no log-probabilities at all."""
        return self.params.logprobs if self.given is None else self.params.prompt_logprobs

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token of the unchanged logits is all that is asked for."""
        return self.given is None and self.mask is None and self.params.is_plain_greedy


class Drawn(NamedTuple):
    """A drawn token; its log-probabilities where the request asks for them."""

    token: int
    logprobs: TokenLogprobs | None
