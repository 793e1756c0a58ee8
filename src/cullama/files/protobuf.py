"""Reads the fields of a message in protocol buffers' wire format, as SentencePiece stores models.

It knows no schema: a field has a number and a value, and what the value means is the caller's
business. Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = "int | bytes"  # a varint, or what a field of a stated or fixed length holds

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; groups, 3 and 4, are long deprecated
MAX_VARINT_BYTES = 10


class ProtobufError(ValueError):
    """The bytes are no message; the text says why."""


def message_fields(content: bytes) -> Iterator[tuple[int, Value]]:
    """Yield the number and value of each field of a message, in order.

    Raises:
        ProtobufError: it ends within a field, or holds something that no message does.
    """
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _varint(content, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {kind} at byte {at}, expected 0, 1, 2 or 5")
        if size > len(content) - at:
            raise ProtobufError(
                f"field {number} at byte {at} of {size:,} bytes, expected at most "
                f"{len(content) - at:,}"
            )
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a place, and the place behind it."""
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if at + index == len(content):
            raise ProtobufError("the end within a number, expected more bytes")
        byte = content[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ProtobufError(f"a number of more than {MAX_VARINT_BYTES} bytes at byte {at}")


def signed(value: int) -> int:
    """Return a varint as the int32 or int64 that it encodes."""
    return value - (1 << 64) if value >= 1 << 63 else value
