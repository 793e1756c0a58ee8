"""Tokenizers built from GGUF fields give the ids of their originals.

For byte-level BPE the original is made here with the `tokenizers` library and put through a file;
for SentencePiece a naive merging by score stands in for the original.
"""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from cullama.checkpoint import gguf_tokenizer
from cullama.checkpoint.gguf_file import GgufFile
from cullama.checkpoint.gguf_tokenizer import build_tokenizer
from cullama.errors import ModelFileError, NoTokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
Metadata = dict[str, Any]

any_text = st.one_of(
    st.text(max_size=60),
    st.text("abcdehilnorstuwyAB  \t\n\r0123456789'.,!é漢🙂ſ", max_size=60),
    st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")),
    st.binary(max_size=40).map(lambda raw: raw.decode(errors="replace")),
)
examples = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def fields(**values: Any) -> Metadata:
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


# gpt2: byte-level BPE

SENTENCES = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, they're late!",
    "def merge(left, right):\n    return left + right\n\n\n# 2024-06-07  ",
    "naïve café 漢字 in 1999; HTTPServer's camelCaseNames, I'LL DON'T they've",
] * 3

# The pre-tokenizers of published tokenizer.json files, word for word.
ORIGINAL_PATTERNS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(ORIGINAL_PATTERNS[pre]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def trained(pre: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=450,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    return tokenizer


def gpt2_fields(tokenizer: Tokenizer, pre: str, **more: Any) -> Metadata:
    """What llama.cpp's converter would store of a tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    size = tokenizer.get_vocab_size()
    kinds = {**dict.fromkeys(SPECIAL, CONTROL), "<tool call>": USER_DEFINED}
    tokens = [tokenizer.id_to_token(index) for index in range(size)]
    return fields(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        token_type=[kinds.get(token or "", NORMAL) for token in tokens],
        merges=[" ".join(merge) for merge in model["merges"]],
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


ORIGINALS = {pre: trained(pre) for pre in ["gpt-2", "smollm", *ORIGINAL_PATTERNS]}
GPT2 = gpt2_fields(ORIGINALS["gpt-2"], "gpt-2")
REBUILT = {
    pre: build_tokenizer(gpt2_fields(original, pre, add_bos_token=False))
    for pre, original in ORIGINALS.items()
} | {"default": build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], "default"))}


@pytest.mark.parametrize("pre", ORIGINALS)
@examples
@given(text=any_text)
@example(text="It's they're I'LL  two\n\n three   \n12345 é 漢字's HTTPServer/\n/ ")
@example(text="<|im_start|>user\n<tool call> <|im_end|>")
@example(text="e\u0301 A\u030a ½ ٣٤")
def test_a_byte_level_tokenizer_gives_the_ids_of_its_original(pre: str, text: str) -> None:
    original, rebuilt = ORIGINALS[pre], REBUILT[pre]
    expected = original.encode(text)
    found = rebuilt.encode(text)
    assert found.ids == expected.ids
    assert found.tokens == expected.tokens
    assert rebuilt.decode(found.ids) == original.decode(expected.ids)


@pytest.mark.parametrize("pre", REBUILT)
@examples
@given(text=any_text)
def test_byte_level_decoding_undoes_encoding(pre: str, text: str) -> None:
    tokenizer = REBUILT[pre]
    ids = tokenizer.encode(text).ids
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    assert tokenizer.decode(ids, skip_special_tokens=False) == normal


def test_special_tokens_survive_a_file(tmp_path: Path) -> None:
    original = ORIGINALS["smollm"]
    stored = gpt2_fields(original, "smollm")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for key, value in stored.items():
        add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rebuilt = build_tokenizer(GgufFile(tmp_path / "m.gguf").metadata)
    text = "<|im_start|>user\nThe quick 123 <tool call><|im_end|>"
    ids = rebuilt.encode(text).ids
    assert ids == original.encode(text).ids
    assert ids[0] == 1
    assert rebuilt.decode(ids, skip_special_tokens=False) == text
    assert rebuilt.decode(ids) == "user\nThe quick 123 <tool call>"
    assert rebuilt.get_vocab_size() == original.get_vocab_size()
    rebuilt.encode_special_tokens = True  # what a user types is plain text
    assert 1 not in rebuilt.encode(text).ids


SPLITS = {
    # Punctuation first, then GPT-2's words; numbers in threes from the left, the rest after them.
    "default": [
        ("Hi, you!", ["Hi", ",", "Ġyou", "!"]),
        ("a+b==c", ["a", "+", "b", "==", "c"]),
        ("in 12345", ["in", "Ġ", "123", "45"]),
    ],
    "gpt-2": [("in 12345 it's", ["in", "Ġ12345", "Ġit", "'s"]), ("a  b", ["a", "Ġ", "Ġb"])],
    "smollm": [("in 123", ["in", "Ġ", "1", "2", "3"]), ("it's!!\n\n", ["it", "'s", "!!", "ĊĊ"])],
    "llama-bpe": [
        ("in 12345", ["in", "Ġ", "123", "45"]),
        ("IT'Sx (a)\n\nb", ["IT", "'S", "x", "Ġ(", "a", ")ĊĊ", "b"]),
    ],
    "qwen2": [("in 123", ["in", "Ġ", "1", "2", "3"]), ("x.y", ["x", ".y"])],
    "tekken": [
        ("camelCase HTTPServer", ["camel", "Case", "ĠHTTPServer"]),
        ("a.\n/b", ["a", ".Ċ/", "b"]),
    ],
    # A line's end by itself, symbols apart from words; no endings.
    "deepseek-coder": [
        ("it's 123\n\n", ["it", "'", "s", "Ġ", "1", "2", "3", "Ċ", "Ċ"]),
        ("x = (a é)", ["x", "Ġ=", "Ġ(", "a", "ĠÃ©", ")"]),
    ],
    # Its symbols are : to ~, which holds the letters, so that words end at an é.
    "deepseek-llm": [("café 1234", ["caf", "Ã©", "Ġ", "1234"]), ("it's\n", ["it", "'", "s", "Ċ"])],
    "deepseek-v3": [("a_b 1234 =x", ["a", "_b", "Ġ", "123", "4", "Ġ=", "x"])],
    "seed-coder": [("it's 12;\n", ["it", "'s", "Ġ", "1", "2", ";", "Ċ"])],
    "smaug-bpe": [("it's 1234", ["it", "'s", "Ġ", "123", "4"])],
    "gpt-4o": [("it's camelCase", ["it's", "Ġcamel", "Case"])],
    "falcon": [("a+b 1234", ["a", "+", "b", "Ġ", "123", "4"])],
    "bloom": [("it's (a) b.c", ["it's", "Ġ(", "a", ")", "Ġb", ".", "c"])],
    "viking": [("it's 12", ["it's", "Ġ", "1", "2"])],
    "qwen35": [("e\u0301a 12", ["eÌģa", "Ġ", "1", "2"])],
    "ufakzeka": [("it's 12", ["it", "'s", "Ġ", "1", "2"])],
    "minicpm5": [("it's 1234", ["it", "'s", "Ġ", "123", "4"])],
}

# Other names that llama.cpp has for the same.
ALIASES = {
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "smaug-bpe": ("dbrx", "glm4", "chatglm-bpe"),
    "deepseek-r1-qwen": ("kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "gpt-2": ("phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "exaone4"),
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2"),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm"),
    "bloom": ("poro-chat", "gpt3-finnish"),
}


@pytest.mark.parametrize("pre", ALIASES)
def test_a_splitting_has_other_names(pre: str) -> None:
    original = build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], pre)).to_str()
    for name in ALIASES[pre]:
        assert build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], name)).to_str() == original, name


def test_the_aliases_of_qwen2_split_as_it_does() -> None:
    alias, original = (
        build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], pre)) for pre in ("kormo", "qwen2")
    )
    assert alias.pre_tokenizer is not None
    assert original.pre_tokenizer is not None
    for text in SENTENCES:
        words = original.pre_tokenizer.pre_tokenize_str(text)
        assert alias.pre_tokenizer.pre_tokenize_str(text) == words


@pytest.mark.parametrize("pre", SPLITS)
def test_text_is_split_into_words_as_the_pre_tokenizer_says(pre: str) -> None:
    tokenizer = build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], pre))
    assert tokenizer.pre_tokenizer is not None
    for text, expected in SPLITS[pre]:
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        assert words == expected


def test_a_file_that_names_no_splitting_gets_the_default() -> None:
    named = gpt2_fields(ORIGINALS["gpt-2"], "default")
    nameless = {key: value for key, value in named.items() if not key.endswith(".pre")}
    for metadata in (nameless, {**nameless, "tokenizer.ggml.pre": ""}):
        found = build_tokenizer(metadata)
        assert found.to_str() == build_tokenizer(named).to_str()


@pytest.mark.parametrize(
    ("pre", "is_whole"), [("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("qwen2", False)]
)
def test_a_word_that_is_a_token_needs_no_merges_where_tiktoken_is_the_source(
    pre: str, is_whole: bool
) -> None:
    metadata = gpt2_fields(ORIGINALS["gpt-2"], pre, add_bos_token=False)
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "zyx"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], NORMAL]
    tokens = build_tokenizer(metadata).encode("zyx").tokens
    assert (tokens == ["zyx"]) == is_whole


# llama: SentencePiece BPE

# Each can be reached from pieces before it, as training makes them.
MERGED = (
    "▁t he ▁a in ▁the re on ▁s er ▁w or ▁o it is an at ▁in ▁the▁ ▁▁ ▁▁▁▁ th ing ed ou ll ▁th es "
    "est ▁test lo llo hello ▁hello ▁hello▁ ld ▁wor ▁world aa aaaa ab ba aba s> <s 12 123 éa 漢字 "
    "🙂🙂"
)
WORDS = MERGED.split()


def spm_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores, kinds: unknown, control, bytes, merged pieces best first, then characters."""
    characters = sorted({character for word in WORDS for character in word} - {"x"})
    rest = [*"xyzXYZ.,!'\n0", "ö", "字"]
    plain = list(dict.fromkeys([*WORDS, *characters, *rest]))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *plain]
    scores = [0.0] * 259 + [-float(index) for index in range(len(plain))]
    return tokens, scores, [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(plain)


TOKENS, SCORES, KINDS = spm_vocabulary()


def spm_fields(**changes: Any) -> Metadata:
    basic: Metadata = {"model": "llama", "tokens": TOKENS, "scores": SCORES, "token_type": KINDS}
    basic |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return fields(**{key: it for key, it in (basic | changes).items() if it is not None})


SPM = build_tokenizer(spm_fields())
SPM_AS_IS = build_tokenizer(spm_fields(add_space_prefix=False, add_bos_token=False))


def merge_by_score(text: str) -> list[int]:
    """Join the two neighbours that make the best piece, the leftmost first, until none do."""
    score = {
        token: score
        for token, score, kind in zip(TOKENS, SCORES, KINDS, strict=True)
        if kind == NORMAL
    }
    pieces = list(text.replace(" ", "▁"))
    while True:
        joined = [left + right for left, right in pairwise(pieces)]
        best = max((score[it] for it in joined if it in score), default=None)
        if best is None:
            return [index for piece in pieces for index in piece_ids(piece)]
        at = next(index for index, it in enumerate(joined) if score.get(it) == best)
        pieces[at : at + 2] = [joined[at]]


def piece_ids(piece: str) -> list[int]:
    if piece in TOKENS:
        return [TOKENS.index(piece)]
    return [3 + byte for byte in piece.encode()]


spm_text = st.one_of(any_text, st.lists(st.sampled_from([*WORDS, " ", "a", "he"])).map("".join))


@examples
@given(text=spm_text)
@example(text="hello world <s> </s> <unk> <0x0A>")
@example(text="  the   test ")
@example(text="aaaaaaa abababa")
@example(text="é\0漢字🦙")
def test_a_sentencepiece_tokenizer_merges_by_score(text: str) -> None:
    SPM.encode_special_tokens = SPM_AS_IS.encode_special_tokens = True  # as a user's text
    expected = merge_by_score("▁" + text) if text else []
    assert SPM.encode(text).ids == [1, *expected]
    assert SPM_AS_IS.encode(text).ids == merge_by_score(text)


@examples
@given(text=spm_text.filter(lambda text: "▁" not in text))
def test_sentencepiece_decoding_undoes_encoding(text: str) -> None:
    SPM.encode_special_tokens = SPM_AS_IS.encode_special_tokens = True
    assert SPM.decode(SPM.encode(text).ids) == text
    assert SPM_AS_IS.decode(SPM_AS_IS.encode(text).ids) == text


def test_control_tokens_are_found_where_they_are_asked_for() -> None:
    tokenizer = build_tokenizer(spm_fields())
    text = "hello</s>world<unk>"
    assert tokenizer.encode(text).tokens == ["<s>", "▁hello", "</s>", "▁world", "<unk>"]
    assert tokenizer.decode(tokenizer.encode(text).ids) == "hello world"
    tokenizer.encode_special_tokens = True
    assert 2 not in tokenizer.encode(text).ids
    # "<s" and ">" are pieces, and yet no text merges into the control token.
    assert tokenizer.encode("<s>").ids.count(1) == 1


def test_user_defined_tokens_are_matched_whole_and_are_not_special() -> None:
    metadata = spm_fields(
        tokens=[*TOKENS, "<|tool  x|>"],
        scores=[*SCORES, -1000.0],
        token_type=[*KINDS, USER_DEFINED],
    )
    tokenizer = build_tokenizer(metadata)
    encoded = tokenizer.encode("hello <|tool  x|>")
    assert encoded.tokens[-1] == "<|tool  x|>"
    assert tokenizer.decode(encoded.ids) == "hello <|tool  x|>"


def test_unused_tokens_are_never_produced() -> None:
    kinds = [
        UNUSED if token == "▁hello" else kind for token, kind in zip(TOKENS, KINDS, strict=True)
    ]
    assert "▁hello" not in build_tokenizer(spm_fields(token_type=kinds)).encode("hello").tokens


def test_without_byte_tokens_a_strange_character_is_unknown_once() -> None:
    keep = [index for index, kind in enumerate(KINDS) if kind != BYTE]
    lists: dict[str, list[Any]] = {"tokens": TOKENS, "scores": SCORES, "token_type": KINDS}
    metadata = spm_fields(**{name: [it[i] for i in keep] for name, it in lists.items()})
    assert build_tokenizer(metadata).encode("a🦙🦙").tokens == ["<s>", "▁a", "<unk>"]


def test_without_token_types_the_named_tokens_are_control_tokens() -> None:
    tokenizer = build_tokenizer(spm_fields(token_type=None))
    assert tokenizer.encode("hello</s>").tokens == ["<s>", "▁hello", "</s>"]
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("hello</s>").ids == SPM.encode("hello</s>").ids


def test_equal_scores_merge_in_the_order_of_the_vocabulary() -> None:
    equal = build_tokenizer(spm_fields(scores=np.zeros(len(TOKENS), np.float32)))
    for text in ("hello world", "the test is in there", "aaaa aba"):
        assert equal.encode(text).ids == SPM.encode(text).ids


def test_without_scores_the_order_of_the_vocabulary_is_that_of_merges(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = build_tokenizer(spm_fields(scores=None))
    assert "scores is missing: tokens are merged in the order of the vocabulary" in caplog.text
    in_whole_numbers = build_tokenizer(spm_fields(scores=np.array(SCORES, np.int32)))
    for text in ("hello world", "the test is in there", "aaaa aba"):
        assert missing.encode(text).ids == SPM.encode(text).ids
        assert in_whole_numbers.encode(text).ids == SPM.encode(text).ids


def test_an_empty_token_keeps_its_place() -> None:
    metadata = spm_fields(tokens=["<unk>", "<s>", "</s>", *TOKENS[3:-1], ""])
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.id_to_token(len(TOKENS) - 1) == f"[EMPTY_{len(TOKENS) - 1}]"


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED, UNUSED])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_end_tokens_known_by_name_are_control_tokens_whatever_their_type(
    family: str, kind: int
) -> None:
    """As in llama.cpp: converters often have the types wrong."""
    metadata = GPT2 if family == "gpt2" else spm_fields()
    tokens = [*metadata["tokenizer.ggml.tokens"], "<|im_end|>"]
    kinds = [*metadata["tokenizer.ggml.token_type"], kind]
    metadata = metadata | fields(tokens=tokens, token_type=kinds, scores=[*SCORES, -999.0])
    if family == "gpt2":
        at = tokens.index("<|im_end|>")  # its vocabulary has one already
        metadata |= fields(tokens=tokens[:-1], token_type=[*kinds[:at], kind, *kinds[at + 1 : -1]])
    tokenizer = build_tokenizer(metadata)
    end = tokenizer.token_to_id("<|im_end|>")
    assert tokenizer.encode("a<|im_end|>").ids[-1] == end
    assert tokenizer.decode([end]) == ""
    tokenizer.encode_special_tokens = True
    assert end not in tokenizer.encode("a<|im_end|>").ids


@pytest.mark.parametrize(("name", "strips"), [("Phi-3 Mini", True), ("Other", False), (3, False)])
def test_control_tokens_of_phi_3_drop_the_space_behind_them(name: Any, strips: bool) -> None:
    """As in llama.cpp, by the model's name: GGUF has no field for it."""
    metadata = spm_fields(
        tokens=[*TOKENS, "<|user|>"], scores=[*SCORES, -999.0], token_type=[*KINDS, CONTROL]
    )
    tokenizer = build_tokenizer({**metadata, "general.name": name})
    spaced = tokenizer.encode("<|user|>\n hello</s> hello<s> hello").ids
    bare = tokenizer.encode("<|user|>hello</s>hello<s> hello").ids
    assert (spaced == bare) == strips


# Beginning and end


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "expected"),
    [
        (None, None, ["<s>", "▁a"]),
        (True, True, ["<s>", "▁a", "</s>"]),
        (False, True, ["▁a", "</s>"]),
        (False, False, ["▁a"]),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(
    add_bos: bool | None, add_eos: bool | None, expected: list[str]
) -> None:
    tokenizer = build_tokenizer(spm_fields(add_bos_token=add_bos, add_eos_token=add_eos))
    assert tokenizer.encode("a").tokens == expected
    assert tokenizer.encode("a", add_special_tokens=False).tokens == ["▁a"]


@pytest.mark.parametrize(
    ("pre", "begins"), [("gpt-2", False), ("smollm", False), ("llama-bpe", True), ("tekken", True)]
)
def test_llama_3_and_mistral_add_bos_by_default(pre: str, begins: bool) -> None:
    tokenizer = build_tokenizer(gpt2_fields(ORIGINALS["gpt-2"], pre))
    assert (tokenizer.encode("a").ids[0] == 1) == begins
    stated = gpt2_fields(ORIGINALS["gpt-2"], pre, add_bos_token=not begins)
    assert (build_tokenizer(stated).encode("a").ids[0] == 1) != begins


def test_bos_is_left_out_where_none_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert build_tokenizer(spm_fields(bos_token_id=None)).encode("a").tokens == ["▁a"]
    assert not caplog.messages
    asked_for = build_tokenizer(spm_fields(bos_token_id=None, add_bos_token=True))
    assert asked_for.encode("a").tokens == ["▁a"]
    [message] = caplog.messages
    assert "add_bos_token is true, and bos_token_id no token: none is added" in message


@pytest.mark.parametrize("outside", [-1, len(TOKENS), 0xFFFFFFFF])
def test_an_id_outside_the_vocabulary_is_none(outside: int) -> None:
    """The config warns about it."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "padding_token_id"), outside)
    assert build_tokenizer(spm_fields(**ids, unknown_token_id=outside)).encode("a☃").tokens == [
        *("▁a", "<0xE2>", "<0x98>", "<0x83>")
    ]


def test_a_token_named_like_a_template_is_added_all_the_same() -> None:
    tokens = [*TOKENS[:1], "$A:x y", *TOKENS[2:]]
    assert build_tokenizer(spm_fields(tokens=tokens)).encode("a").tokens == ["$A:x y", "▁a"]


# What is refused

NOT_REBUILT = {
    "nothing": ({}, r"has no tokenizer\.ggml\.model; give token ids"),
    "another family": (fields(model="bert"), r"model is 'bert', expected one of gpt2, llama"),
    "no vocabulary": (fields(model="no_vocab"), "model is 'no_vocab'"),
    "another splitting": (
        {**GPT2, "tokenizer.ggml.pre": "kimi-k2"},
        r"pre is 'kimi-k2', expected one of default, gpt-2, .*smollm, .*llama-bpe, .*tekken",
    ),
}


@pytest.mark.parametrize("name", NOT_REBUILT)
def test_a_tokenizer_of_another_kind_is_refused_by_name(name: str) -> None:
    metadata, message = NOT_REBUILT[name]
    with pytest.raises(NoTokenizerError, match=message) as caught:
        build_tokenizer(metadata, Path("m.gguf"))
    assert str(caught.value).startswith("m.gguf: ")


UNSOUND = {
    "model no text": (fields(model=3), "model is 3"),
    "tokens missing": (fields(model="llama"), "tokens is missing, expected a list of strings"),
    "tokens empty": (spm_fields(tokens=[]), "tokens is a list, expected a list of strings"),
    "tokens numbers": (spm_fields(tokens=np.zeros(3)), "tokens is a ndarray, expected a list"),
    "token twice": (spm_fields(tokens=["a"] * len(TOKENS)), "tokens holds 'a' twice"),
    "types too few": (spm_fields(token_type=KINDS[1:]), r"token_type is .*shape \[\d+\], expected"),
    "types no integers": (spm_fields(token_type=SCORES), "token_type is of type float64"),
    "types one number": (spm_fields(token_type=1), "token_type is of type int64"),
    "scores too few": (spm_fields(scores=SCORES[1:]), "scores is of type float64 and shape"),
    "scores texts": (spm_fields(scores=["1"] * len(TOKENS)), "scores is of type <U1"),
    "scores not numbers": (spm_fields(scores=[np.nan, *SCORES[1:]]), "scores holds NaN"),
    "scores infinite": (spm_fields(scores=[np.inf, *SCORES[1:]]), "holds NaN or infinity"),
    "bos no id": (spm_fields(bos_token_id="<s>"), "bos_token_id is '<s>', expected a token id"),
    "flag no flag": (spm_fields(add_bos_token="yes"), "add_bos_token is 'yes', expected true or"),
    "piece of a megabyte": (
        spm_fields(tokens=[*TOKENS[:-1], "a" * (1 << 20)]),
        "tokens holds 1,048,576 characters in one, expected at most 1,024",
    ),
    "merges missing": (
        {key: value for key, value in GPT2.items() if not key.endswith("merges")},
        "merges is missing, expected a list of strings",
    ),
    "merge of one": ({**GPT2, "tokenizer.ggml.merges": ["ab"]}, "merges holds 'ab', expected two"),
    "merge of nothing": ({**GPT2, "tokenizer.ggml.merges": ["a "]}, "merges holds 'a '"),
    "merge of no token": (
        {**GPT2, "tokenizer.ggml.merges": ["nosuch a"]},
        "not a valid tokenizer: .*nosuch",
    ),
    "merge into no token": (
        {**GPT2, "tokenizer.ggml.merges": ["z q"]},
        "not a valid tokenizer: .*zq",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_fields_that_do_not_fit_are_refused_by_name(name: str) -> None:
    metadata, message = UNSOUND[name]
    start = time.perf_counter()
    with pytest.raises(ModelFileError, match=message) as caught:
        build_tokenizer(metadata, Path("m.gguf"))
    assert time.perf_counter() - start < 1
    assert str(caught.value).startswith("m.gguf: tokenizer.ggml")
    assert len(str(caught.value)) < 300


def test_finding_merges_stays_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    work = sum(len(token) ** 2 for token, kind in zip(TOKENS, KINDS, strict=True) if kind == NORMAL)
    monkeypatch.setattr(gguf_tokenizer, "MAX_MERGE_WORK", work)
    build_tokenizer(spm_fields())
    monkeypatch.setattr(gguf_tokenizer, "MAX_MERGE_WORK", work - 1)
    with pytest.raises(ModelFileError, match="tokens, expected shorter tokens"):
        build_tokenizer(spm_fields())


# A real one


@pytest.fixture(scope="module")
def smollm() -> tuple[Tokenizer, Tokenizer]:
    """SmolLM2's, rebuilt, and the same vocabulary under the splitting of its tokenizer.json."""
    path = os.environ.get("CULLAMA_TEST_GGUF")
    if not path:
        pytest.skip("CULLAMA_TEST_GGUF names no model")
    metadata = GgufFile(path).metadata
    if metadata.get("tokenizer.ggml.pre") != "smollm":
        pytest.skip("CULLAMA_TEST_GGUF names a model with another tokenizer")
    original = build_tokenizer(metadata)
    original.pre_tokenizer = pre_tokenizer("smollm")
    return build_tokenizer(metadata), original


@examples
@given(text=any_text)
def test_smollm_gives_the_ids_of_its_original(
    smollm: tuple[Tokenizer, Tokenizer], text: str
) -> None:
    rebuilt, original = smollm
    ids = rebuilt.encode(text).ids
    assert ids == original.encode(text).ids
    # Its vocabulary lacks a few bytes that only rare characters hold; they are dropped.
    if all(rebuilt.token_to_id(letter) is not None for letter in as_byte_letters(text)):
        assert rebuilt.decode(ids, skip_special_tokens=False) == text


def as_byte_letters(text: str) -> str:
    """Each byte as the letter that stands for it in a byte-level vocabulary."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return "".join(word for word, _ in words)


def test_smollm_encodes_known_texts(smollm: tuple[Tokenizer, Tokenizer]) -> None:
    text = "<|im_start|>user\nHello, world! 42<|im_end|>\n"
    encoded = smollm[0].encode(text)
    assert encoded.ids == [1, 4093, 198, 19556, 28, 905, 17, 216, 36, 34, 2, 198]
