"""What single tokens spell, for people to look at.

A token may hold only a part of a character; then its bytes are shown, as in `\\xe2\\x98`. It knows
the two ways in which vocabularies write bytes, and nothing of texts: those are the detokenizer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .tokenizer import Tokenizer

# Byte-level BPE's letter for each byte (Radford et al., GPT-2, 2019): the visible ones of Latin-1
# stand for themselves, for the others the letters from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _VISIBLE]
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE}
_BYTE_OF |= {chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)}

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's


def token_texts(tokenizer: Tokenizer | None, ids: Iterable[int]) -> dict[int, str]:
    """Of each id, what it adds to a text: the leading space too, and control tokens spelled out.

    An id that no tokenizer knows is written `#17`.
    """
    return {token: _text(tokenizer, token) for token in dict.fromkeys(map(int, ids))}


def _text(tokenizer: Tokenizer | None, token: int) -> str:
    piece = None if tokenizer is None else tokenizer.tokenizer.id_to_token(token)
    if tokenizer is None or piece is None:
        return f"#{token}"
    # Some decoders take the space off a first word: of two in a row, the second one has it.
    first, both = (tokenizer.decode([token] * count, skip_special_tokens=False) for count in (1, 2))
    text = both[len(first) :]
    return text if text and "\ufffd" not in text else _bytes_of(piece) or piece


def _bytes_of(piece: str) -> str:
    if written := _BYTE_TOKEN.fullmatch(piece):
        spelled = bytes.fromhex(written[1])
    elif all(letter in _BYTE_OF for letter in piece):
        spelled = bytes(_BYTE_OF[letter] for letter in piece)
    else:
        return ""
    return spelled.decode("utf-8", "backslashreplace")
