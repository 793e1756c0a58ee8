"""Between text and token ids. The work is the `tokenizers` library's.

What a user types is plain text here, also where it spells a special token: only templates may
speak to the model in control tokens. Whatever the text, and whatever the library makes of it,
nothing but a CullamaError comes out. It knows no model and no template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import index
from threading import Lock
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from ..errors import ModelFileError, UsageError
from .rust_panics import is_panic

if TYPE_CHECKING:
    import tokenizers

LARGEST_ID = (1 << 32) - 1  # that the library can be asked about

# Tokens of the prompt that a first piece may depend on: a space, a letter in several bytes.
CONTEXT_TOKENS = 16

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # SentencePiece's way to write a byte


def _check_text(text: object) -> None:
    try:
        if isinstance(text, str):
            text.encode()
            return
    except UnicodeEncodeError:
        pass
    raise UsageError(f"cannot encode {text!r:.80}, expected well-formed unicode text")


def _checked_ids(ids: Iterable[SupportsIndex]) -> list[int]:
    try:
        numbers = [index(it) for it in ids]
    except TypeError:
        numbers = [-1]
    if numbers and not 0 <= min(numbers) <= max(numbers) <= LARGEST_ID:
        raise UsageError("cannot decode these ids, expected whole numbers from 0 on")
    return numbers


@contextmanager
def _failures_named(what: str) -> Iterator[None]:
    """Turn what the library raises into our errors: plain Exceptions, and panics."""
    try:
        yield
    except BaseException as error:
        _explain(error, what)


def _explain(error: BaseException, what: str) -> NoReturn:
    if not isinstance(error, Exception) and not is_panic(error):
        raise error  # Ctrl-C, say
    raise ModelFileError(
        f"the model's tokenizer fails on {what}: {error}; "
        "its tokenizer.json, or the tokenizer in its GGUF file, is damaged"
    ) from None


class Tokenizer:
    """May be used by several threads at once.

    A megabyte of text takes 0.1 to 2 s, one without a space or of one letter as well (measured
    with vocabularies of 300 to 49 K tokens, byte-level and SentencePiece); time grows in step
    with the text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        # Whether control tokens are read is a setting of the library's object, not an argument:
        # without the lock, one thread's template would let another thread's user write them.
        self._lock = Lock()

    def encode(
        self, text: str, add_special_tokens: bool = True, allow_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        `add_special_tokens` puts the tokens the model expects round a text (its BOS, say);
        `allow_special` reads control tokens spelled out in the text as such.

        Raises:
            UsageError: the text holds half of a surrogate pair, which is no character.
            ModelFileError: the model's tokenizer has no token for it, or is damaged.
        """
        _check_text(text)
        with self._lock, _failures_named(f"the text {text[:60]!r}"):
            self.tokenizer.encode_special_tokens = not allow_special
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = True) -> str:
        """The text of token ids. Ids that the tokenizer does not have are no text.

        Raises:
            UsageError: what is no token id at all.
            ModelFileError: the model's tokenizer is damaged.
        """
        numbers = _checked_ids(ids)
        with _failures_named("token ids"):
            return self.tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

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
        ids = _checked_ids(prompt)
        for token in ids[self._beginning(ids) :]:
            self.add(token)

    def add(self, token: int) -> str:
        """The characters that this token completes; often a word, sometimes none.

        Raises:
            UsageError: what is no token id at all.
            ModelFileError: the model's tokenizer is damaged.
        """
        [token] = _checked_ids([token])
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # the library raises plain Exception
            # Bytes that make no character spoiled text that was already shown; what is shown
            # cannot be taken back, so the text goes on with this token as if it were the first.
            self._restart()
        except BaseException as error:
            _explain(error, f"token {token}")
        with _failures_named(f"token {token}"):
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
