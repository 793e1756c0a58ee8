"""Whether a tokenizer as GGUF says it gives the ids of the one it was taken from.

It knows texts in which tokenizers part, and nothing of where either came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.gguf_tokenizer import CONTROL, NORMAL, USER_DEFINED, build_tokenizer
from ..errors import ModelFileError, NoTokenizerError
from ..text.tokenizer import Tokenizer
from .sample import sample_text

if TYPE_CHECKING:
    import tokenizers

PREFIX = "tokenizer.ggml."

# Where ways of splitting part: endings, numbers, cases, line ends, combining marks, symbols.
BOUNDARIES = (
    "It's 7 o'clock, they'LL say: 42, 123, 1234, 12345678!\r\n\r\n\tHTTPServer/camelCase x=y+1;\n"
    "/*  two   three    spaces \n \n  naïve e\u0301 Å ½ ٣٤ 漢字かな 🦙🙂 don't I'D a_b $9.99 (#1)…"
)


def is_equivalent(original: tokenizers.Tokenizer, metadata: Mapping[str, Any]) -> bool:
    """Whether what the metadata says reads any text of a user's as the original does."""
    try:
        rebuilt = build_tokenizer(metadata)
    except (ModelFileError, NoTokenizerError):
        return False
    if not _splits_alike(original, rebuilt):
        return False
    pair = Tokenizer(original), Tokenizer(rebuilt)
    plain = set(np.flatnonzero(metadata[f"{PREFIX}token_type"] == NORMAL).tolist())
    return all(_reads_alike(*pair, text, plain) for text in (BOUNDARIES, sample_text()))


def differing_texts(original: tokenizers.Tokenizer, metadata: Mapping[str, Any]) -> list[str]:
    """Kinds of text in which tokenizers that are alike otherwise part. Templates write such."""
    kinds, tokens = metadata[f"{PREFIX}token_type"], metadata[f"{PREFIX}tokens"]
    control = [tokens[place] for place in np.flatnonzero(np.isin(kinds, (CONTROL, USER_DEFINED)))]
    texts = {
        "text beside control tokens": "".join(f"{it}user\nWell {it}\n\nyes" for it in control),
        "text that begins with a space": " Well",
    }
    pair = Tokenizer(original), Tokenizer(build_tokenizer(metadata))
    return [what for what, text in texts.items() if len(_readings(pair, text)) > 1]


def _readings(pair: Iterable[Tokenizer], text: str) -> set[tuple[int, ...]]:
    return {tuple(tokenizer.encode(text, allow_special=True)) for tokenizer in pair}


def _reads_alike(original: Tokenizer, rebuilt: Tokenizer, text: str, plain: set[int]) -> bool:
    """The same ids of a text, and the same text of those ids that are `plain` tokens."""
    ids = original.encode(text)
    words = [index for index in ids if index in plain]
    return rebuilt.encode(text) == ids and rebuilt.decode(words) == original.decode(words)


def _splits_alike(original: tokenizers.Tokenizer, rebuilt: tokenizers.Tokenizer) -> bool:
    """Whether text falls into the same words first, those included that a small vocabulary would
    take apart anyway, and whether words that are tokens are treated the same.

    A tokenizer without such a step is known by its ids alone.
    """
    if rebuilt.pre_tokenizer is None:
        return True
    if original.pre_tokenizer is None:
        return False
    is_whole = [tokenizer.model.ignore_merges for tokenizer in (original, rebuilt)]
    return is_whole[0] == is_whole[1] and _words(original) == _words(rebuilt)


def _words(tokenizer: tokenizers.Tokenizer) -> list[str]:
    normalizer = tokenizer.normalizer
    text = normalizer.normalize_str(BOUNDARIES) if normalizer else BOUNDARIES
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
