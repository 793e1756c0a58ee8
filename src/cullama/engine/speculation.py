"""Guesses at the next tokens, from the text itself: where it repeats, it goes on as it did before.

Prompt lookup (Saxena, "Prompt Lookup Decoding", 2023): the newest few tokens are looked up among
those before; what followed them there is guessed here. The model then looks at all guesses in one
pass. A guess is right if it is the very token that would have been drawn: the random number of
each token depends on its place alone (`philox.py`), so the text is the one that would have been
written without guessing, token for token. (Chen et al., 2023, need a rule of rejection where
proposals are random; ours are not.) Integers only.
"""

from __future__ import annotations

LONGEST, SHORTEST = 3, 2  # tokens looked up: three in a row if they are there, or else two


class PromptLookup:
    """Follows one growing list of tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._noted = SHORTEST  # whatever comes before has been noted down
        self._after: dict[tuple[int, ...], int] = {}  # where each few tokens were last followed
        self._most = 0

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens; fewer while guesses turn out wrong."""
        self._note()
        tokens = self._tokens
        for length in range(LONGEST, SHORTEST - 1, -1):
            start = self._after.get(tuple(tokens[-length:]))
            if start is not None:
                period = len(tokens) - start  # a text that repeats itself goes on repeating itself
                wanted = min(most, self._most or most)
                return [tokens[start + i % period] for i in range(wanted)]
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Guess twice as many as were right the last time: a wrong guess costs a row of a pass."""
        if guessed:
            self._most = 2 * right + 1

    def _note(self) -> None:
        tokens = self._tokens
        for end in range(self._noted, len(tokens)):
            for length in range(SHORTEST, LONGEST + 1):
                if end >= length:
                    self._after[tuple(tokens[end - length : end])] = end
        self._noted = max(self._noted, len(tokens))
