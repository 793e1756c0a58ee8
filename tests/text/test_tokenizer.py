"""Encoding and decoding: control tokens as plain text, complete characters only, our errors."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from cullama.errors import CullamaError, ModelFileError, UsageError
from cullama.text.tokenizer import Detokenizer, Tokenizer

BEGIN, END, USER = 0, 1, 2
VOCABULARY = 300
PROMPT = "Once upon a time"

# Two, three and four bytes long; some of them in the tokenizer's training text, some not.
CHARACTERS = "aé—東京🦙☃ñ¿€𝄞क्षि👩‍👩‍👧 \n\t\0\x7f\u0301\u200b\u2028"

# Half of a surrogate pair is no character; U+FFFD is what broken bytes are shown as.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))
mixed = st.lists(st.sampled_from([*CHARACTERS, "llama", " the", "def add(", "  "])).map("".join)
token_ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(Library.from_file(str(tokenizer_file)))


def pieces_of(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    return [detokenizer.add(token) for token in answer]


# --- encoding


def test_bos_is_added_unless_told_otherwise(tokenizer: Tokenizer) -> None:
    with_begin = tokenizer.encode(PROMPT)
    assert with_begin[0] == BEGIN
    assert tokenizer.encode(PROMPT, add_special_tokens=False) == with_begin[1:]
    assert tokenizer.encode("") == [BEGIN]
    assert tokenizer.encode("", add_special_tokens=False) == []


@given(texts | mixed)
def test_decoding_gives_back_the_encoded_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(type(token) is int and 0 <= token < VOCABULARY for token in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["<|end|>", "a<|end|>b", "<|begin|><|user|>", "<|end|><|end|>"])
def test_a_spelled_control_token_is_plain_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert not {BEGIN, END, USER} & set(ids)
    assert tokenizer.decode(ids) == text


def test_allow_special_reads_control_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|user|>a<|end|>", add_special_tokens=False, allow_special=True)
    assert (ids[0], ids[-1]) == (USER, END)
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|user|>a<|end|>"


def test_allow_special_holds_for_one_call(tokenizer: Tokenizer) -> None:
    before = tokenizer.encode("<|end|>")
    tokenizer.encode("<|end|>", allow_special=True)
    assert tokenizer.encode("<|end|>") == before


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d", "x" * 100_000 + "\ud800"])
def test_half_a_surrogate_pair_is_refused_in_one_printable_line(
    tokenizer: Tokenizer, text: str
) -> None:
    with pytest.raises(UsageError, match="well-formed") as caught:
        tokenizer.encode(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 300
    message.encode()


@pytest.mark.parametrize("text", [None, 5, 1.5, b"Once", [PROMPT], (PROMPT, PROMPT), {}])
def test_values_that_are_not_str_are_refused(tokenizer: Tokenizer, text: Any) -> None:
    with pytest.raises(UsageError) as caught:
        tokenizer.encode(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_long_text_is_not_truncated(tokenizer: Tokenizer) -> None:
    text = "The old clock struck twelve. " * 2000
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_padding_and_truncation_of_the_file_are_off(tokenizer_file: Path) -> None:
    """Training scripts leave them in files; padding would be fed to the model."""
    settings = json.loads(tokenizer_file.read_text())
    settings["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<|end|>",
    }
    settings["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    padded = Tokenizer(Library.from_str(json.dumps(settings)))
    plain = Tokenizer(Library.from_file(str(tokenizer_file)))
    assert padded.encode(PROMPT) == plain.encode(PROMPT)


def test_the_size_counts_added_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.size == VOCABULARY


# --- any text


def test_every_unicode_character_can_be_encoded(tokenizer: Tokenizer) -> None:
    places = [*range(0xD800), *range(0xE000, 0x110000)]
    for start in range(0, len(places), 1 << 16):
        text = "".join(map(chr, places[start : start + (1 << 16)]))
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("unit", ["a", " ", "'", "ab", "🦙", "\u0301"])
def test_encoding_time_is_linear_also_without_spaces(tokenizer: Tokenizer, unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * (count // len(unit.encode()))
        started = time.process_time()
        assert tokenizer.decode(tokenizer.encode(text)) == text
        return time.process_time() - started

    # Twenty times as long, so twenty times the time; four hundred times if it were its square.
    assert seconds(200_000) < 100 * max(seconds(10_000), 0.005)


@given(texts | mixed)
def test_the_ids_equal_the_librarys(tokenizer: Tokenizer, text: str) -> None:
    library = tokenizer.tokenizer
    for is_special in (False, True):
        found = tokenizer.encode(text, allow_special=is_special)
        library.encode_special_tokens = not is_special
        assert found == library.encode(text).ids
    assert tokenizer.decode(found) == library.decode(found)


# --- failures of the library


def changed(tokenizer_file: Path, **changes: Any) -> Tokenizer:
    """A tokenizer that checkpoints would refuse: it is not probed first."""
    settings = {**json.loads(tokenizer_file.read_text()), **changes}
    return Tokenizer(Library.from_str(json.dumps(settings)))


def test_a_panic_in_encoding_raises_model_file_error(tokenizer_file: Path) -> None:
    panicking = changed(tokenizer_file, pre_tokenizer={"type": "FixedLength", "length": 0})
    with pytest.raises(ModelFileError, match="fails on the text 'Once upon a time': ") as caught:
        panicking.encode(PROMPT)
    assert len(str(caught.value).splitlines()) == 1
    assert panicking.encode("", add_special_tokens=False) == []  # and it may be used further


def test_a_panic_in_decoding_raises_model_file_error(tokenizer_file: Path) -> None:
    strip = {"type": "Strip", "content": "a", "start": 9, "stop": 9}
    panicking = changed(tokenizer_file, decoder=strip)
    ids = panicking.encode("aaaa", add_special_tokens=False)
    with pytest.raises(ModelFileError, match="fails on token ids: "):
        panicking.decode(ids)
    with pytest.raises(ModelFileError, match=rf"fails on token {ids[0]}: "):
        pieces_of(panicking, [], ids)
    with pytest.raises(ModelFileError, match=rf"fails on token {ids[0]}: "):
        Detokenizer(panicking, ids)


def test_a_text_without_a_token_raises_model_file_error() -> None:
    words = Tokenizer(Library(models.WordLevel({"a": 0}, unk_token="?")))
    assert words.encode("a") == [0]
    with pytest.raises(ModelFileError, match=r"fails on the text 'b': .*\[UNK\]"):
        words.encode("b")


class Stub:
    """Stands in for the library's tokenizer."""

    encode_special_tokens = False

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error = error

    def no_padding(self) -> None: ...

    no_truncation = no_padding

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {}

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        if self.error:
            raise self.error
        before = self.encode_special_tokens
        time.sleep(0.002)
        assert self.encode_special_tokens == before
        return Library(models.BPE()).encode("")

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        raise self.error or AssertionError


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_ctrl_c_is_not_reported_as_a_tokenizer_failure(error: type[BaseException]) -> None:
    stub: Any = Stub(error)
    with pytest.raises(error):
        Tokenizer(stub).encode(PROMPT)
    with pytest.raises(error):
        Tokenizer(stub).decode([1])


def test_allow_special_in_one_thread_does_not_affect_another() -> None:
    stub: Any = Stub()
    tokenizer = Tokenizer(stub)
    with ThreadPoolExecutor(4) as pool:
        kinds = [bool(number % 2) for number in range(40)]
        list(pool.map(lambda it: tokenizer.encode(PROMPT, allow_special=it), kinds))


# --- decoding


@given(token_ids)
def test_any_ids_can_be_decoded(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert isinstance(tokenizer.decode(ids), str)
    assert tokenizer.decode(np.array(ids, np.int64)) == tokenizer.decode(ids)
    assert tokenizer.decode(iter(ids)) == tokenizer.decode(tuple(ids)) == tokenizer.decode(ids)


def test_ids_outside_the_vocabulary_decode_to_nothing(tokenizer: Tokenizer) -> None:
    """A model's vocabulary is often padded beyond the tokenizer's."""
    assert tokenizer.decode([VOCABULARY, 10_000]) == ""
    ids = tokenizer.encode(PROMPT)
    assert "".join(pieces_of(tokenizer, [], [*ids, 310, *ids[1:]])) == PROMPT * 2


@pytest.mark.parametrize("ids", [[-1], [2**32], [10**30], ["a"], [None], [1.5]])
def test_values_that_are_not_token_ids_are_refused(tokenizer: Tokenizer, ids: Any) -> None:
    with pytest.raises(CullamaError) as caught:
        tokenizer.decode(ids)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UsageError):
        pieces_of(tokenizer, [], ids)
    with pytest.raises(UsageError):
        Detokenizer(tokenizer, ids)


# --- incremental decoding


@given(prompt=texts | mixed, answer=texts | mixed)
@example(prompt="", answer="🦙")
@example(prompt="a", answer="👩‍👩‍👧" * 20)
def test_pieces_of_a_well_formed_text_are_whole_characters(
    tokenizer: Tokenizer, prompt: str, answer: str
) -> None:
    ids = tokenizer.encode(answer, add_special_tokens=False)
    pieces = pieces_of(tokenizer, tokenizer.encode(prompt), ids)
    assert "".join(pieces) == answer
    assert not any("\ufffd" in piece for piece in pieces)


@given(prompt=mixed, answer=mixed, cut=st.integers(0, 6))
def test_a_prompt_may_end_within_a_character(
    tokenizer: Tokenizer, prompt: str, answer: str, cut: int
) -> None:
    """The answer then begins with the character that its first bytes complete."""
    text = prompt + "🦙☃" + answer
    ids = tokenizer.encode(text)
    at = len(tokenizer.encode(prompt + "🦙☃")) - cut
    joined = "".join(pieces_of(tokenizer, ids[:at], ids[at:]))
    assert "\ufffd" not in joined
    assert text.endswith(joined)
    assert len(joined) >= len(answer)


@given(prompt=mixed, answer=token_ids)
@example(prompt="a", answer=[200] * 40)
@example(prompt="", answer=[BEGIN, END, USER] * 5)
def test_pieces_of_any_ids_add_up_to_their_text(
    tokenizer: Tokenizer, prompt: str, answer: list[int]
) -> None:
    before = tokenizer.encode(prompt)
    expected = tokenizer.decode([*before, *answer])[len(tokenizer.decode(before)) :]
    joined = "".join(pieces_of(tokenizer, before, answer))
    assert expected.startswith(joined)
    # What is held back at the end may yet become a character.
    held = expected[len(joined) :]
    assert not held or held.endswith("\ufffd")


@given(answer=mixed, where=st.lists(st.integers(0, 60), max_size=5))
def test_control_tokens_in_between_add_no_text_and_break_no_character(
    tokenizer: Tokenizer, answer: str, where: list[int]
) -> None:
    ids = tokenizer.encode(answer, add_special_tokens=False)
    for position in where:
        ids.insert(position, USER)
    assert "".join(pieces_of(tokenizer, tokenizer.encode(PROMPT), ids)) == answer


def test_invalid_bytes_do_not_hold_back_what_follows(
    tokenizer: Tokenizer,
) -> None:
    """Or one bad byte would silence the rest of a stream."""
    [start, *_] = tokenizer.encode("☃", add_special_tokens=False)
    good = tokenizer.encode(" llama goes on", add_special_tokens=False)
    joined = "".join(pieces_of(tokenizer, tokenizer.encode(PROMPT), [start, start, *good]))
    assert joined.endswith(" llama goes on")


def test_an_encoded_replacement_character_is_kept(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a\ufffdb", add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, tokenizer.encode(PROMPT), ids)) == "a\ufffdb"


# --- tokenizers of Llama 2's kind: "▁" for a space, and bytes as tokens of their own


@pytest.fixture(scope="module")
def with_byte_tokens() -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"abcdehlmnoprtu", "é", "▁t", "he", "▁the", "ll", "am", "▁▁"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("l", "l"), ("a", "m"), ("▁", "▁")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    library = Library(model)
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    library.normalizer = normalizers.Sequence(spaces)
    words = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*words, decoders.Strip(" ", 1, 0)])
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(library)


def byte_tokens(content: bytes) -> list[int]:
    return [3 + byte for byte in content]


@given(
    parts=st.lists(st.sampled_from(["a", " ", " the", "ll", "é", "東", "🦙", "\n"])),
    cut=st.integers(0, 60),
)
@example(parts=["🦙", "東", "🦙", " ", "a"], cut=12)  # a long run of bytes before the answer
def test_byte_tokens_become_whole_characters(
    with_byte_tokens: Tokenizer, parts: list[str], cut: int
) -> None:
    ids = with_byte_tokens.encode("".join(parts))
    assert with_byte_tokens.decode(ids) == "".join(parts)
    before = with_byte_tokens.decode(ids[:cut])
    joined = "".join(pieces_of(with_byte_tokens, ids[:cut], ids[cut:]))
    assert "\ufffd" not in joined
    if "\ufffd" not in before:
        assert joined == with_byte_tokens.decode(ids)[len(before) :]


def test_a_long_run_of_byte_tokens_before_the_answer_does_not_leak_into_it(
    with_byte_tokens: Tokenizer,
) -> None:
    prompt = with_byte_tokens.encode("the 🦙🦙東")
    answer = with_byte_tokens.encode("llama")  # with the space that it begins with
    assert "".join(pieces_of(with_byte_tokens, prompt, answer)) == " llama"


def test_a_first_word_has_a_space_only_after_another(with_byte_tokens: Tokenizer) -> None:
    ids = with_byte_tokens.encode("the llama")
    assert "".join(pieces_of(with_byte_tokens, [], ids)) == "the llama"
    assert "".join(pieces_of(with_byte_tokens, [1], ids)) == "the llama"
    assert "".join(pieces_of(with_byte_tokens, [1, *ids], ids)) == " the llama"


@pytest.mark.parametrize("bad", [b"\n\xf0", b"@\xff", b"ok\xe6\x9d", b"\xff", b"\xf0\x9f\xa6"])
def test_invalid_byte_tokens_raise_nothing(with_byte_tokens: Tokenizer, bad: bytes) -> None:
    """The library decodes a run of bytes as one: a bad one takes back what was shown already."""
    prompt, rest = with_byte_tokens.encode("the"), with_byte_tokens.encode("llama")
    joined = "".join(pieces_of(with_byte_tokens, prompt, [*byte_tokens(bad), *rest]))
    assert joined.endswith("llama")
    joined = "".join(pieces_of(with_byte_tokens, prompt, [*byte_tokens(bad), 1, *rest]))
    assert joined.endswith("llama")


@given(
    prompt=st.lists(st.integers(0, 285), max_size=12),
    answer=st.lists(st.integers(0, 285) | st.integers(3, 258), max_size=20),
)
@example(prompt=[], answer=[45, 169, 62, 252, 259, 174, 100])
@example(prompt=[259], answer=[67, 158, 198, 212, 41, 0, 98, 171, 81, 122, 114])
def test_no_ids_of_a_sentencepiece_tokenizer_raise_anything(
    with_byte_tokens: Tokenizer, prompt: list[int], answer: list[int]
) -> None:
    pieces = pieces_of(with_byte_tokens, prompt, answer)
    assert all(isinstance(piece, str) for piece in pieces)


@pytest.mark.parametrize("letters", ["▁ab/s>", "▁ab/s><＜"])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_control_tokens_that_are_pieces_of_the_vocabulary_are_not_made_of_letters(
    letters: str, adds_bos: bool
) -> None:
    """Unigram, whose vocabulary has them with the best of scores; the second one has a "<"."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in letters)]
    library = Library(models.Unigram(pieces, unk_id=0))
    library.normalizer = normalizers.Replace("＜", "<")
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    bos = []
    if adds_bos:
        bos = [1]
        library.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    tokenizer = Tokenizer(library)
    for text in ("a</s>b", "</s>", "<s>" * 20_000, "a＜/s>", "<</s>/s>", "</s><s>"):
        ids = tokenizer.encode(text)
        assert ids[: len(bos)] == bos
        assert not {1, 2} & set(ids[len(bos) :]), text
    assert tokenizer.encode("ab") == [*bos, *(tokenizer.encode("ab", False))]
    assert tokenizer.encode("a</s>", allow_special=True)[-1] == 2
