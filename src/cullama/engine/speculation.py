"""Proposes draft tokens from the text itself: where it repeats, it continues as it did before.

Prompt lookup (Saxena, "Prompt Lookup Decoding", 2023): the newest few tokens are looked up among
those before; what followed them there is proposed here. The model then computes all draft tokens
in one pass. A draft token is accepted if it is the very token that would have been drawn: the
random number of each token depends on its position alone (`sampling/philox.py`), so the text is
the one that would have been generated without speculation, token for token, where a row's logits
do not depend on the rows beside it (compiled CPU kernels, or `deterministic`). (Chen et al., 2023,
need a rule of rejection where proposals are random; ours are not.) Integers only; it runs no model.
"""

from __future__ import annotations

MAX_NGRAM, MIN_NGRAM = 3, 2  # tokens looked up: three in a row if they occurred, or else two


class PromptLookup:
    """Proposes what may follow one growing list of tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._indexed = MIN_NGRAM  # tokens whose n-grams are in `_after`
        self._after: dict[tuple[int, ...], int] = {}  # where each n-gram was last continued
        self._limit = 0  # 0: none yet

    def propose(self, most: int) -> list[int]:
        """Return up to `most` draft tokens; fewer while few are accepted."""
        tokens = self._tokens
        for end in range(self._indexed, len(tokens)):
            for length in range(MIN_NGRAM, MAX_NGRAM + 1):
                if end >= length:
                    self._after[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, len(tokens))

        for length in range(MAX_NGRAM, MIN_NGRAM - 1, -1):
            start = self._after.get(tuple(tokens[-length:]))
            if start is not None:
                period = len(tokens) - start  # a text that repeats itself goes on repeating itself
                count = min(most, self._limit or most)
                return [tokens[start + i % period] for i in range(count)]
        return []

    def learn(self, proposed: int, accepted: int) -> None:
        """Limit the next proposal to twice what was accepted: each token costs a row of a pass."""
        if proposed:
            self._limit = 2 * accepted + 1
