"""Between text and token ids. The work is the `tokenizers` library's.

What a user types is plain text here, also where it spells a special token: only templates may
speak to the model in control tokens. It knows no model and no template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import tokenizers

# Tokens of the prompt that a first piece may depend on: a space, a letter in several bytes.
CONTEXT_TOKENS = 16

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's way to write a byte


class Tokenizer:
    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer

    def encode(
        self, text: str, add_special_tokens: bool = True, allow_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        `add_special_tokens` puts the tokens the model expects round a text (its BOS, say);
        `allow_special` reads control tokens spelled out in the text as such.

        Raises:
            UsageError: the text holds half of a surrogate pair, which is no character.
        """
        self.tokenizer.encode_special_tokens = not allow_special
        try:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except (UnicodeEncodeError, TypeError):
            raise UsageError(
                f"cannot encode {text!r:.80}, expected well-formed unicode text"
            ) from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids. Ids that the tokenizer does not have are no text.

        Raises:
            UsageError: what is no token id at all.
        """
        try:
            return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except (TypeError, OverflowError):
            raise UsageError("cannot decode these ids, expected whole numbers from 0 on") from None

    @property
    def size(self) -> int:
        """Tokens in the vocabulary, added ones included."""
        return self.tokenizer.get_vocab_size()


class Detokenizer:
    """Ids one by one → text in complete characters.

    It starts from the end of the prompt, because the text of a token depends on what stands before
    it: a first word keeps its leading space when it continues a sentence.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer.tokenizer
        self._restart()
        for token in prompt[self._beginning(prompt) :]:
            self.add(token)

    def add(self, token: int) -> str:
        """The characters that this token completes; often a word, sometimes none."""
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # the library raises plain Exception
            # Bytes that make no character spoiled text that was already shown; what is shown
            # cannot be taken back, so the text goes on with this token as if it were the first.
            self._restart()
            return self._stream.step(self._tokenizer, token) or ""

    def _restart(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(skip_special_tokens=True)

    def _beginning(self, prompt: list[int]) -> int:
        """Where to start in the prompt: not within a character that is spelled in bytes."""
        start = max(0, len(prompt) - CONTEXT_TOKENS)
        while start > 0 and _BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(prompt[start]) or ""):
            start -= 1
        return start
