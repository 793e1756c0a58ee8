"""From what is asked for to sequences: checked, with the tokens an answer may have, and a seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ContextLengthError, UsageError
from ..model.config import ModelConfig
from ..sampling.params import SamplingParams
from ..sampling.philox import fresh_seed
from .sequence import Sequence
from .speculation import PromptLookup

DEFAULT_MAX_TOKENS = 256
MOST_PRIORITY = 1_000_000


@dataclass(frozen=True)
class Desk:
    """Takes requests for one model."""

    config: ModelConfig
    context_length: int
    cache_length: int  # tokens that the whole cache holds

    def sequences(self, prompt: list[int], params: SamplingParams) -> list[Sequence]:
        """One for each of the request's n samples.

        Raises:
            UsageError: an empty prompt, or a token id outside the vocabulary.
            ContextLengthError: prompt and answer do not fit the context.
        """
        self.check_prompt(prompt)
        self._check_tokens("stop_token_ids", params.stop_token_ids)
        self._check_tokens("logit_bias", params.logit_bias)
        max_tokens = self.longest_answer(len(prompt), params.max_tokens)
        seed = fresh_seed() if params.seed is None else params.seed
        own_ends = () if params.ignore_eos else self.config.eos_ids
        ends = frozenset(own_ends) | set(params.stop_token_ids)
        sequences: list[Sequence] = []
        for index in range(params.n):
            leader = sequences[0] if sequences else None
            sequence = Sequence(list(prompt), params, max_tokens, seed, ends, index, leader)
            if params.speculation:
                sequence.lookup = PromptLookup(sequence.tokens)
            sequences.append(sequence)
        return sequences

    def check_prompt(self, tokens: list[int]) -> None:
        if not tokens:
            raise UsageError("the prompt is empty, expected at least one token")
        self._check_tokens("the prompt", tokens)

    def _check_tokens(self, where: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if (
                type(token) is bool
                or not isinstance(token, int | np.integer)
                or not 0 <= token < self.config.vocab_size
            ):
                raise UsageError(
                    f"{where} holds {token!r}, expected token ids below {self.config.vocab_size}"
                )

    @property
    def longest_text(self) -> int:
        """Tokens of a prompt and its answer together, of which the last is not kept."""
        return min(self.context_length, self.cache_length + 1)

    def longest_answer(self, prompt: int, asked: int | None) -> int:
        """The tokens the answer may have.

        Raises:
            ContextLengthError: prompt and answer are longer than the context, or than the cache.
        """
        place, longest = "context", self.context_length
        if self.longest_text < longest:
            place, longest = "cache", self.cache_length
        room = self.longest_text - prompt
        if room < (1 if asked is None else asked):
            answer = f" and an answer of up to {asked}" if asked else ""
            raise ContextLengthError(
                f"a prompt of {prompt} tokens{answer} does not fit the {place} of {longest} "
                "tokens; shorten the prompt" + (" or lower max_tokens" if asked else "")
            )
        return min(room, DEFAULT_MAX_TOKENS) if asked is None else asked


def check_priority(priority: int) -> None:
    if type(priority) is not int or abs(priority) > MOST_PRIORITY:
        raise UsageError(f"priority is {priority!r}, expected a whole number like 0, 1 or -1")
