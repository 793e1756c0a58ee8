"""Encodes text to token ids and decodes ids to text, on top of the `tokenizers` library.

Control tokens that a text spells are encoded as plain text unless allowed, as for the output of
chat templates. Every failure of the library, panics included, becomes a CullamaError. It reads no
files: checkpoints do (`checkpoint/tokenizer_file.py`, `checkpoint/gguf_tokenizer.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from operator import index
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

from ..errors import ModelFileError, UsageError
from .control_tokens import SHAPE
from .rust_panics import is_panic

if TYPE_CHECKING:
    import tokenizers

NO_TOKENS: Mapping[int, str] = MappingProxyType({})
MAX_ID = (1 << 32) - 1  # the library's ids are uint32

# Tokens of the prompt that the first token's text may depend on: a word before it decides on its
# leading space, bytes before it on the character that it completes.
CONTEXT_TOKENS = 16

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's tokens for single bytes


class Tokenizer:
    """Encodes and decodes; may be used by several threads at once.

    A megabyte of text takes 0.1 to 2 s, one without a space or of one letter as well (measured
    with vocabularies of 300 to 49 K tokens, byte-level and SentencePiece); the time is linear in
    the text's length.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        # `encode_special_tokens` is state of the library's object, not an argument of encode: a
        # template rendered in one thread must not allow control tokens in another thread's text.
        self._lock = Lock()

    def encode(
        self, text: str, add_special_tokens: bool = True, allow_special: bool = False
    ) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: well-formed Unicode.
            add_special_tokens: add the tokens that the model expects around a text, such as BOS.
            allow_special: encode control tokens that the text spells as control tokens.

        Raises:
            UsageError: not a str, or half of a surrogate pair in it.
            ModelFileError: the model's tokenizer has no token for it, or is damaged.
        """
        _check_text(text)
        with self._lock, _library_errors(f"the text {text[:60]!r}"):
            self.tokenizer.encode_special_tokens = not allow_special
            encoding = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
            ids: list[int] = encoding.ids
            if allow_special or self._control_texts.keys().isdisjoint(ids):
                return ids
            # Those around the text have a mask; others are pieces of the vocabulary itself, as
            # Unigram's have them.
            mask = encoding.special_tokens_mask
            start = next((k for k, is_added in enumerate(mask) if not is_added), len(ids))
            end = next((k for k in range(len(ids), start, -1) if not mask[k - 1]), start)
            return [*ids[:start], *self._encode_apart(text, ids[start:end]), *ids[end:]]

    def _encode_apart(self, text: str, ids: list[int]) -> list[int]:
        """Return a text's tokens, where it spells control tokens cut in two; `ids` are those of
        the whole."""
        names = {self._control_texts[index] for index in ids if index in self._control_texts}
        if not names:
            return ids
        found = re.finditer(f"(?={'|'.join(map(re.escape, names))})", text)
        cuts = [0, *(match.start() + 1 for match in found), len(text)]
        apart: list[int] = []
        for start, end in pairwise(cuts):
            part = text[start:end]
            new = self.tokenizer.encode(part, add_special_tokens=False).ids
            if not self._control_texts.keys().isdisjoint(new):  # a normalizer makes one of others
                new = [
                    index
                    for letter in part
                    for index in self.tokenizer.encode(letter, add_special_tokens=False).ids
                ]
            apart += new
        return apart

    @cached_property
    def _control_texts(self) -> Mapping[int, str]:
        """The control tokens by id, those in brackets, without the one for what the vocabulary
        lacks. Of others, which may be letters, text is made all the time."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {
            index: token.content
            for index, token in added.items()
            if token.special and SHAPE.search(token.content) and "unk" not in token.content.lower()
        }

    def encode_prompt(self, text: str, bos_id: int | None, allow_special: bool = True) -> list[int]:
        """Return the token ids of a prompt that is to be continued: control tokens that it spells
        are read as such where they are allowed, and there is one BOS, also where it spells that.

        Raises:
            UsageError, ModelFileError: as `encode`.
        """
        ids = self.encode(text, allow_special=allow_special)
        return ids[1:] if ids[:2] == [bos_id] * 2 else ids

    def decode(self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids; ids outside the tokenizer's vocabulary decode to nothing.

        Raises:
            UsageError: not integers from 0 on.
            ModelFileError: the model's tokenizer is damaged.
        """
        numbers = _checked_ids(ids)
        with _library_errors("token ids"):
            return self.tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

    @property
    def size(self) -> int:
        """The number of tokens in the vocabulary, added ones included."""
        return self.tokenizer.get_vocab_size()


class Detokenizer:
    """Decodes ids one by one, and returns complete characters only.

    It starts with the end of the prompt, because a token's text depends on what precedes it: a
    first word keeps its leading space when it continues a sentence.

    Args:
        shown: the texts of control tokens, by id, that are part of the text; others are left out.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: list[int], shown: Mapping[int, str] = NO_TOKENS
    ) -> None:
        self._tokenizer, self._shown = tokenizer.tokenizer, shown
        self._restart()
        ids = _checked_ids(prompt)
        start = max(0, len(ids) - CONTEXT_TOKENS)
        # Not inside a run of byte tokens, which decodes as a whole.
        while start > 0 and BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(ids[start]) or ""):
            start -= 1
        for token in ids[start:]:
            self.add(token)

    def add(self, token: int) -> str:
        """Return the characters that this token completes: often a word, sometimes nothing.

        Raises:
            UsageError: not an integer from 0 on.
            ModelFileError: the model's tokenizer is damaged.
        """
        if type(token) is not int or not 0 <= token <= MAX_ID:
            [token] = _checked_ids([token])
        if token in self._shown:
            return self._shown[token]
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # the library raises plain Exception
            # Invalid UTF-8 after text that was already returned changes how that text decodes.
            # It cannot be taken back, so this token is decoded as if it were the first.
            self._restart()
        except BaseException as error:
            _raise_as_ours(error, f"token {token}")
        with _library_errors(f"token {token}"):
            return self._stream.step(self._tokenizer, token) or ""

    def _restart(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(skip_special_tokens=True)


def text_behind(tokenizer: Tokenizer, prompt: Sequence[int], token_ids: Sequence[int]) -> str:
    """Return what an answer's first tokens spell behind its prompt: complete characters."""
    detokenizer = Detokenizer(tokenizer, [*prompt])
    return "".join(map(detokenizer.add, token_ids))


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
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_ID:
        raise UsageError("cannot decode these ids, expected whole numbers from 0 on")
    return numbers


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Turn the library's exceptions and panics into ModelFileError."""
    try:
        yield
    except BaseException as error:
        _raise_as_ours(error, what)


def _raise_as_ours(error: BaseException, what: str) -> NoReturn:
    if not isinstance(error, Exception) and not is_panic(error):
        raise error  # Ctrl-C and the like
    raise ModelFileError(
        f"the model's tokenizer fails on {what}: {error}; "
        "its tokenizer.json, or the tokenizer in its GGUF file, is damaged"
    ) from None
