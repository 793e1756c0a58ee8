"""Collects the log-probabilities of a prompt's tokens, which its passes give a few at a time.

The logits behind token p are those of token p + 1, so the first token of a prompt has none. A
position that was found in the prefix cache has no logits either: `next` says from where on the
prompt has to go through the model. No arrays, no model.
"""

from __future__ import annotations

from ..sampling.params import TokenLogprobs


class PromptLogprobs:
    """The log-probabilities of the tokens from position `start` to the prompt's end.

    All samples of a request share one: the first of them to compute a position fills it in.
    """

    def __init__(self, prompt_length: int, start: int = 1) -> None:
        self.start = start
        self.values: list[TokenLogprobs] = []
        self._prompt_length = prompt_length

    @property
    def next(self) -> int:
        """The first position whose log-probability is not known yet."""
        return self.start + len(self.values)

    @property
    def is_complete(self) -> bool:
        return self.next >= self._prompt_length

    def add(self, position: int, logprobs: TokenLogprobs) -> None:
        """Add a position's; those that another sample, or an earlier try, gave are kept."""
        assert position <= self.next, "a position's logits were left out"
        if position == self.next:
            self.values.append(logprobs)
