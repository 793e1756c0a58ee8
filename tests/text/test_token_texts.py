"""Texts of single tokens: with their leading space, as bytes where they are no character."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from cullama.text.token_texts import token_bytes, token_texts
from cullama.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def byte_level(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_file(str(tokenizer_file)))


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """As Llama 2's: a space is ▁, the first one is taken off, bytes are written out."""
    vocabulary = {"<unk>": 0, "▁the": 1, "the": 2, "<0xE2>": 3, "<0x0A>": 4, "▁": 5}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return Tokenizer(tokenizer)


def test_words_keep_their_space(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("the the", add_special_tokens=False)
    assert list(token_texts(byte_level, ids).values())[-1].startswith(" ")


def test_words_keep_their_space_where_the_decoder_strips_the_first(
    sentencepiece: Tokenizer,
) -> None:
    assert token_texts(sentencepiece, [1, 2, 5]) == {1: " the", 2: "the", 5: " "}


def test_parts_of_characters_are_bytes(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    ids = byte_level.encode("☃", add_special_tokens=False)
    assert "".join(token_texts(byte_level, ids).values()) == r"\xe2\x98\x83"
    assert token_texts(sentencepiece, [3, 4]) == {3: r"\xe2", 4: "\n"}


def test_control_tokens_are_spelled_out(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    assert token_texts(byte_level, [0, 1]) == {0: "<|begin|>", 1: "<|end|>"}
    assert token_texts(sentencepiece, [0]) == {0: "<unk>"}


def test_unknown_ids_are_shown_as_numbers(byte_level: Tokenizer) -> None:
    assert token_texts(byte_level, [100_000]) == {100_000: "#100000"}
    assert token_texts(None, [7, 7]) == {7: "#7"}


@given(text=st.text(max_size=40))
def test_the_text_can_be_put_together_from_token_texts(byte_level: Tokenizer, text: str) -> None:
    """A backslash of its own aside, which stays one character."""
    ids = byte_level.encode(text, add_special_tokens=False)
    texts = token_texts(byte_level, ids)
    spelled = "".join(
        texts[token] if "\\x" in texts[token] else repr(texts[token].encode())[2:-1]
        for token in ids
    )
    whole = spelled.replace("\\'", "'").encode().decode("unicode_escape").encode("latin-1")
    assert whole.decode() == text


@given(text=st.text(max_size=40))
def test_the_bytes_of_a_text_are_those_of_its_tokens(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text, add_special_tokens=False)
    texts = token_texts(byte_level, ids)
    assert b"".join(token_bytes(byte_level, token, texts[token]) for token in ids) == text.encode()
