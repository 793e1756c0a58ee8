"""Between text and token ids. The work is the `tokenizers` library's.

What a user types is plain text here, also where it spells a special token: only templates may
speak to the model in control tokens. It knows no model and no template.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import tokenizers

# A character is at most four byte-tokens long, and spaces belong to the token after them.
CONTEXT_TOKENS = 8


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
        return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

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
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        for token in prompt[-CONTEXT_TOKENS:]:
            self._stream.step(self._tokenizer, token)

    def add(self, token: int) -> str:
        """The characters that this token completes; often a word, sometimes none."""
        return self._stream.step(self._tokenizer, token) or ""
