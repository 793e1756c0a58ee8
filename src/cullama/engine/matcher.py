"""Follows one sample through its grammar: which tokens may come next, and which are forced.

Wraps llguidance's matcher, which never raises: every call here asks it for errors, so that no
answer goes on unchecked. End tokens are this file's: they are drawn where an answer is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ConstraintError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Matcher:
    """One sample's place in a grammar.

    Args:
        state: llguidance's, at the beginning of the grammar; this object's own.
        param: which parameter the grammar was given as, for errors.
        end_ids: tokens that end the sample.
        eos_id: the token that `state` takes for the only end token.
        vocab_size: of the model's logits, V.
    """

    def __init__(
        self,
        state: LLMatcher,
        param: str,
        end_ids: frozenset[int],
        eos_id: int,
        vocab_size: int,
    ) -> None:
        self._state, self._param, self._end_ids, self._eos_id = state, param, end_ids, eos_id
        self._size = -(-vocab_size // 32) * 4

    @property
    def is_complete(self) -> bool:
        """Whether the answer has its form, and nothing can follow."""
        return self._state.is_stopped()

    def append(self, tokens: Sequence[int]) -> None:
        """Go on behind tokens, none of which ends the sample.

        Raises:
            ConstraintError: they do not fit the grammar, or it is too complex to go on.
        """
        if not self._state.consume_tokens(list(tokens)):
            raise self._failure()

    def fitting(self, drafts: Sequence[int]) -> list[int]:
        """Return the first of these draft tokens, as far as they fit and none ends the sample."""
        count = self._state.validate_tokens(list(drafts))
        ends = (k for k, token in enumerate(drafts[:count]) if self._is_end(token))
        return list(drafts[: next(ends, count)])

    def forced(self) -> list[int]:
        """Return the tokens that have to come next, because no others may."""
        return self.fitting(self._state.compute_ff_tokens())

    def masks(self, drafts: Sequence[int] = ()) -> list[bytes | None]:
        """Return which tokens may be drawn next, and behind each of the draft tokens.

        A mask has a bit for each token, the lowest first, in whole words of 32. None stands behind
        a draft token that completes the answer.

        Raises:
            ConstraintError: none may be drawn, or the grammar is too complex to go on.
        """
        masks: list[bytes | None] = [self._mask()]
        try:
            for draft in drafts:
                self.append([draft])
                masks.append(None if self.is_complete else self._mask())
        finally:
            self._state.rollback(len(masks) - 1)  # where that fails, every later call does
        return masks

    def _mask(self) -> bytes:
        words = bytearray(self._state.compute_bitmask()[: self._size].ljust(self._size, b"\0"))
        if self._state.is_error():
            raise self._failure()
        can_end = self._has(words, self._eos_id)
        if can_end and self._param == "grammar":  # else it may be named by the grammar itself
            can_end = self._state.is_accepting()
        for token in {self._eos_id, *self._end_ids}:
            byte, bit = token >> 3, 1 << (token & 7)
            is_named = self._has(words, token) and not can_end and self._completes(token)
            if token in self._end_ids and (can_end or is_named):
                words[byte] |= bit
            else:
                words[byte] &= ~bit
        if words.count(0) == len(words):
            raise ConstraintError(
                self._param,
                f"{self._param} cannot be followed: no token of the model's vocabulary fits here",
            )
        return bytes(words)

    def _has(self, words: bytearray, token: int) -> bool:
        return bool(words[token >> 3] >> (token & 7) & 1)

    def _is_end(self, token: int) -> bool:
        return token == self._eos_id or token in self._end_ids

    def _completes(self, token: int) -> bool:
        """Whether a grammar that names an end token is complete behind it."""
        if self._param != "grammar" or self._state.validate_tokens([token]) == 0:
            return False
        after = self._state.deep_copy()
        return after.consume_token(token) and not after.is_error() and after.is_accepting()

    def _failure(self) -> ConstraintError:
        words = self._state.get_error().partition("\n")[0][:200] or "a token does not fit"
        return ConstraintError(self._param, f"{self._param} cannot be followed: {words}")
