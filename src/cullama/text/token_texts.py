"""Spells single tokens for display: with their leading space, control tokens by name.

A token that holds a part of a character is spelled as its bytes, as in `\\xe2\\x98`, for the two
ways in which vocabularies write bytes. Running text is decoded by `Detokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable

from .tokenizer import BYTE_TOKEN, Tokenizer

# Byte-level BPE's letter for each byte (Radford et al., GPT-2, 2019): visible characters of
# Latin-1 stand for themselves, the other bytes are U+0100 and following.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _VISIBLE]
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE}
_BYTE_OF |= {chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)}


def token_texts(tokenizer: Tokenizer | None, ids: Iterable[int]) -> dict[int, str]:
    """Return the text of each id by itself; `#17` for ids without a tokenizer or unknown to it."""
    texts = {}
    for token in dict.fromkeys(map(int, ids)):
        piece = None if tokenizer is None else tokenizer.tokenizer.id_to_token(token)
        if tokenizer is None or piece is None:
            texts[token] = f"#{token}"
            continue
        # Some decoders strip a first word's leading space: of two in a row, the second keeps it.
        first = tokenizer.decode([token], skip_special_tokens=False)
        text = tokenizer.decode([token, token], skip_special_tokens=False)[len(first) :]
        if not text or "\ufffd" in text:
            text = _spelled_bytes(piece) or piece
        texts[token] = text
    return texts


def token_bytes(tokenizer: Tokenizer, token: int, text: str) -> bytes:
    """Return the UTF-8 bytes that a token stands for, which may be a part of a character's.

    Args:
        text: the token's text, as `token_texts` has it.
    """
    piece = tokenizer.tokenizer.id_to_token(token)
    if "\\x" in text and piece is not None and (content := _raw_bytes(piece)):
        return content
    return text.encode()


def _spelled_bytes(piece: str) -> str:
    """Return a vocabulary entry's bytes, with escapes where they are not UTF-8; "" for others."""
    return _raw_bytes(piece).decode("utf-8", "backslashreplace")


def _raw_bytes(piece: str) -> bytes:
    """Return the bytes of a vocabulary entry that is spelled in bytes; none for others."""
    if byte := BYTE_TOKEN.fullmatch(piece):
        return bytes.fromhex(byte[1])
    if all(letter in _BYTE_OF for letter in piece):
        return bytes(_BYTE_OF[letter] for letter in piece)
    return b""
