"""Messages in wire format: what an encoder of our own writes is read, all else is refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protobuf_encoder import field, varint

from cullama.files.protobuf import ProtobufError, message_fields, signed

numbers = st.integers(1, (1 << 29) - 1)
varints = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.tuples(numbers, varints | st.binary(max_size=200))))
def test_fields_come_back_in_their_order(fields: list[tuple[int, int | bytes]]) -> None:
    content = b"".join(field(number, value) for number, value in fields)
    assert list(message_fields(content)) == fields


def test_numbers_of_a_fixed_length_are_bytes() -> None:
    content = varint(1 << 3 | 5) + b"abcd" + varint(2 << 3 | 1) + b"abcdefgh"
    assert list(message_fields(content)) == [(1, b"abcd"), (2, b"abcdefgh")]


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_varint_below_zero_is_signed(value: int) -> None:
    assert signed(value % (1 << 64)) == value


@given(number=numbers, value=st.binary(min_size=1, max_size=50), cut=st.integers(1, 49))
def test_a_message_that_ends_within_a_field_is_refused(number: int, value: bytes, cut: int) -> None:
    whole = field(1, 5) + field(number, value)
    with pytest.raises(ProtobufError, match=r"bytes, expected at most \d+$"):
        list(message_fields(whole[: -min(cut, len(value))]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0b\x0c", "wire type 3"),  # a group
        (b"\x0f", "wire type 7"),
        (b"\xff" * 11, "a number of more than 10 bytes"),
        (b"\x08", "the end within a number"),
        (b"\x0a\xff\xff\xff\xff\x7f", "34,359,738,367 bytes, expected at most 0"),
        (b"\x0d\0\0", "4 bytes, expected at most 2"),
    ],
)
def test_what_no_message_holds_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ProtobufError, match=message):
        list(message_fields(content))


@given(st.binary(max_size=400))
@example(b"\x0a" * 399)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = list(message_fields(content))
    except ProtobufError:
        return
    assert len(found) <= len(content)
