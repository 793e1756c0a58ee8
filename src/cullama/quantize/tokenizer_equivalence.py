"""Whether a tokenizer described by GGUF metadata gives the ids of the original.

It encodes texts in which tokenizers differ; it does not know where either came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.gguf_tokenizer import CONTROL, NORMAL, USER_DEFINED, build_tokenizer
from ..errors import ModelFileError, NoTokenizerError
from ..text.tokenizer import Tokenizer
from .sample import sample_text

if TYPE_CHECKING:
    import tokenizers

PREFIX = "tokenizer.ggml."

# Where pre-tokenizers differ: endings, numbers, case, line ends, combining marks, symbols.
BOUNDARIES = (
    "It's 7 o'clock, they'LL say: 42, 123, 1234, 12345678!\r\n\r\n\tHTTPServer/camelCase x=y+1;\n"
    "/*  two   three    spaces \n \n  naïve e\u0301 Å ½ ٣٤ 漢字かな 🦙🙂 don't I'D a_b $9.99 (#1)…"
)


def is_equivalent(original: tokenizers.Tokenizer, metadata: Mapping[str, Any]) -> bool:
    """Whether the tokenizer of the metadata encodes users' texts as the original does.

    It has to split text into the same words, give the same ids, and decode the normal ones equally.
    """
    try:
        rebuilt = build_tokenizer(metadata)
    except (ModelFileError, NoTokenizerError):
        return False
    if not _has_same_splitting(original, rebuilt):
        return False
    first, second = Tokenizer(original), Tokenizer(rebuilt)
    normal = set(np.flatnonzero(metadata[f"{PREFIX}token_type"] == NORMAL).tolist())
    for text in (BOUNDARIES, sample_text()):
        ids = first.encode(text)
        words = [index for index in ids if index in normal]
        if second.encode(text) != ids or second.decode(words) != first.decode(words):
            return False
    return True


def differing_texts(original: tokenizers.Tokenizer, metadata: Mapping[str, Any]) -> list[str]:
    """Name the kinds of texts, as templates write them, that the two encode differently."""
    kinds, tokens = metadata[f"{PREFIX}token_type"], metadata[f"{PREFIX}tokens"]
    control = [tokens[place] for place in np.flatnonzero(np.isin(kinds, (CONTROL, USER_DEFINED)))]
    texts = {
        "text beside control tokens": "".join(f"{it}user\nWell {it}\n\nyes" for it in control),
        "text that begins with a space": " Well",
    }
    first, second = Tokenizer(original), Tokenizer(build_tokenizer(metadata))
    return [
        what
        for what, text in texts.items()
        if first.encode(text, allow_special=True) != second.encode(text, allow_special=True)
    ]


def _has_same_splitting(original: tokenizers.Tokenizer, rebuilt: tokenizers.Tokenizer) -> bool:
    """Whether both split text into the same words, and treat words that are tokens the same.

    Ids alone would not show it where a small vocabulary splits the words further. A tokenizer that
    does not pre-tokenize is compared by its ids.
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
