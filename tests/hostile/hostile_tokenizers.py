"""A corpus of hostile tokenizer.json files, and valid ones to make them of.

Each is made by code, most by one change to a valid file, and comes with the expected outcome:
a part of the refusal, or None where it is harmless, which is to say that it loads and that every
text is then encoded or refused. It uses nothing of cullama.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
Case: TypeAlias = tuple[bytes, str | None]  # a file, and a part of its refusal

# ------------------------------------------------------------------------------------ valid files

VOCABULARY = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, " ": 6, "▁": 7, "▁a": 8}


def document(**changes: Any) -> Document:
    bpe = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": False}
    valid: Document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    valid |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    valid["model"] = {**bpe, "vocab": VOCABULARY, "merges": ["a b", "▁ a"]}
    return valid | changes


def with_model(**changes: Any) -> Document:
    return document(model={**document()["model"], **changes})


def model(kind: str, **fields: Any) -> Document:
    return document(model={"type": kind, **fields})


def added(content: str, index: int, **changes: Any) -> Document:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return {"id": index, "content": content, **flags, "normalized": True, **changes}


def regex(pattern: str) -> Document:
    return {"Regex": pattern}


def text(pattern: str) -> Document:
    return {"String": pattern}


def replace(pattern: Document, content: str) -> Document:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: Document, behavior: str = "Isolated", invert: bool = False) -> Document:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
NFC, NFKC, LOWERCASE = {"type": "NFC"}, {"type": "NFKC"}, {"type": "Lowercase"}
A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}


def sequence(kind: str, parts: list[Document]) -> Document:
    return {"type": "Sequence", kind: parts}


def template(single: list[Document], ids: tuple[int, ...] = (1,)) -> Document:
    special = {"<s>": {"id": "<s>", "ids": list(ids), "tokens": ["<s>"] * len(ids)}}
    pair = {"type": "TemplateProcessing", "single": single, "pair": [A, B]}
    return {**pair, "special_tokens": special}


def charsmap(trie: list[int], replacements: bytes, size: int | None = None) -> Document:
    count = 4 * len(trie) if size is None else size
    table = struct.pack("<I", count) + struct.pack(f"<{len(trie)}I", *trie) + replacements
    encoded = base64.b64encode(table).decode()
    return {"type": "Precompiled", "precompiled_charsmap": encoded}


WORD_PIECE = {"unk_token": "<unk>", "continuing_subword_prefix": "##"}

VALID: dict[str, Document] = {
    "sentencepiece": document(
        added_tokens=[added(name, i, special=True) for i, name in enumerate(["<unk>", "<s>"])],
        normalizer=sequence("normalizers", [{"type": "Prepend", "prepend": "▁"}, NFKC]),
        pre_tokenizer=METASPACE,
        post_processor=template([BEGIN, A]),
        decoder=sequence(
            "decoders",
            [
                replace(text("▁"), " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        ),
    ),
    "byte level": document(
        normalizer=sequence("normalizers", [NFC, LOWERCASE, {"type": "StripAccents"}]),
        pre_tokenizer=sequence(
            "pretokenizers",
            [{"type": "Digits", "individual_digits": True}, split(regex(r"\s+|\w+")), BYTE_LEVEL],
        ),
        post_processor=BYTE_LEVEL,
        decoder=BYTE_LEVEL,
    ),
    "unigram": document(
        model={
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["ab", -1.5], ["▁", -2.0]],
            "byte_fallback": False,
        },
        normalizer=replace(regex(" {2,}"), " "),
        pre_tokenizer=METASPACE,
        decoder=METASPACE,
    ),
    "word pieces": document(
        model={
            "type": "WordPiece",
            **WORD_PIECE,
            "max_input_chars_per_word": 100,
            "vocab": {"<unk>": 0, "a": 1, "##a": 2, "b": 3, "##b": 4},
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
    "words": model("WordLevel", unk_token="<unk>", vocab={"<unk>": 0, "a": 1}),
}

# --------------------------------------------------------------------------------- hostile ones

FIXED_PADDING = {
    "strategy": {"Fixed": 1 << 40},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<unk>",
}
TRUNCATION = {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}


def nested(depth: int) -> Document:
    inner: Document = NFC
    for _ in range(depth):
        inner = sequence("normalizers", [inner])
    return inner


NO_JSON: dict[str, Case] = {
    "nothing at all": (b"", "cannot be read as JSON"),
    "no UTF-8": (b'{"version": "\xff"}', "cannot be read as JSON"),
    "a list": (b"[]", "holds a list"),
    "brackets for ever": (b"[" * 1_000_000, "cannot be read as JSON"),
    "NaN": (b'{"a": NaN}', "holds NaN"),
    "a key twice": (b'{"version": "1.0", "version": "1.0"}', "is given twice"),
    "a token twice": (
        json.dumps(document()).replace('"b": 4', '"a": 4').encode(),
        "key 'a' is given twice",
    ),
    "cut short": (json.dumps(document()).encode()[:-5], "cannot be read as JSON"),
}

REFUSED: dict[str, tuple[Document, str]] = {
    # ids
    "an id of a billion": (with_model(vocab={**VOCABULARY, "z": 10**9}), "expected a whole number"),
    "an id of 2^32": (with_model(vocab={**VOCABULARY, "z": 1 << 32}), "expected a whole number"),
    "an id below 0": (with_model(vocab={**VOCABULARY, "z": -1}), "expected a whole number"),
    "an id that is true": (with_model(vocab={**VOCABULARY, "z": True}), "id of token 'z' is True"),
    "an id in halves": (with_model(vocab={**VOCABULARY, "z": 9.5}), "id of token 'z' is 9.5"),
    "one id for two": (with_model(vocab={**VOCABULARY, "z": 3}), "that of 'a' and 'z'"),
    "one id, added": (document(added_tokens=[added("z", 3)]), "that of 'a' and 'z'"),
    "an added id of a billion": (
        document(added_tokens=[added("z", 10**9)]),
        "added_tokens: the id",
    ),
    "an added token of nothing": (document(added_tokens=[added("", 9)]), "a token is ''"),
    "an added token of a number": (
        document(added_tokens=[{**added("z", 9), "content": 5}]),
        "a token is 5",
    ),
    "a token of a megabyte": (
        with_model(vocab={**VOCABULARY, "a" * (1 << 20): 9}),
        "1,048,576 characters long, expected 0 to",
    ),
    # growth
    "a letter into a megabyte": (
        document(normalizer=replace(text("a"), "x" * (1 << 20))),
        "normalizer.content is 1,048,576 characters long",
    ),
    "a letter into 256": (document(normalizer=replace(text("a"), "x" * 256)), "256 times as long"),
    "thirty doublings": (
        document(normalizer=sequence("normalizers", [replace(text("a"), "aa")] * 30)),
        "times as long, expected",
    ),
    "doublings, each in its own nest": (
        document(
            normalizer=sequence(
                "normalizers", [sequence("normalizers", [replace(text("a"), "aaaa")])] * 9
            )
        ),
        "times as long, expected",
    ),
    "twenty times byte level": (
        document(pre_tokenizer=sequence("pretokenizers", [BYTE_LEVEL] * 20)),
        "1,048,576 times as long",
    ),
    "words between all bytes": (
        document(normalizer=replace(regex("x*"), "y" * 100)),
        "101 times as long",
    ),
    "a decoder that multiplies": (
        document(decoder=sequence("decoders", [replace(text("a"), "a" * 50)] * 2)),
        "decoder can make a text 2,500 times as long",
    ),
    "a megabyte in front": (
        document(normalizer={"type": "Prepend", "prepend": "x" * (1 << 20)}),
        "normalizer.prepend is 1,048,576 characters long",
    ),
    # counts, depth, width
    "words of no letters": (
        document(pre_tokenizer={"type": "FixedLength", "length": 0}),
        "pre_tokenizer.length is 0, expected a number from 1",
    ),
    "strip 2^63": (
        document(decoder={"type": "Strip", "content": "a", "start": 0, "stop": 1 << 63}),
        "decoder.stop is 9223372036854775808",
    ),
    "strip infinity": (
        document(decoder={"type": "Strip", "content": "a", "start": 1e308 * 10, "stop": 0}),
        "holds Infinity",
    ),
    "words of any length": (
        model("WordPiece", **WORD_PIECE, max_input_chars_per_word=1 << 60, vocab={"<unk>": 0}),
        "model.max_input_chars_per_word is 1152921504606846976",
    ),
    "sequences 40 deep": (document(normalizer=nested(40)), "more than 32 deep"),
    "sequences 120 deep": (document(normalizer=nested(120)), "more than 32 deep"),
    "a sequence of 200,000": (
        document(normalizer=sequence("normalizers", [NFC] * 200_000)),
        "holds 200,000, expected at most 256",
    ),
    # templates
    "a template of a million": (
        document(post_processor=template([BEGIN] * 1_000_000 + [A])),
        "post_processor.single holds 1,000,001, expected at most 256",
    ),
    "a template of 200,000 ids": (
        document(post_processor=template([BEGIN, A], ids=(1,) * 200_000)),
        "holds 200,000, expected",
    ),
    "the text a thousand times": (document(post_processor=template([A] * 1000)), "the text A once"),
    "the text never": (document(post_processor=template([BEGIN])), "the text A once"),
    "the text of a pair alone": (document(post_processor=template([B])), "the text A once"),
    "a template of no token": (
        document(post_processor={**template([BEGIN, A]), "special_tokens": {}}),
        "panics at",
    ),
    # patterns
    "an endless pattern": (document(pre_tokenizer=split(regex("(" * 50_000))), "pattern.Regex is"),
    "a deep pattern": (
        document(pre_tokenizer=split(regex("(" * 4000 + "a" + ")" * 4000))),
        "not a valid tokenizer",
    ),
    "a broken pattern": (document(normalizer=replace(regex("("), "x")), "not a valid tokenizer"),
    # SentencePiece's table
    "an empty table": (
        document(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
        "is not a table",
    ),
    "a table of no base 64": (
        document(normalizer={"type": "Precompiled", "precompiled_charsmap": "§"}),
        "is not a table",
    ),
    "a trie of 4 GiB": (
        document(normalizer=charsmap([1], b"a\0", size=(1 << 32) - 4)),
        "a trie of 4,294,967,292 bytes",
    ),
    "a trie that leads nowhere": (
        document(normalizer=charsmap([0xFFFFFFFF] * 512, b"abc\0")),
        "panics",
    ),
    "a table of a megabyte a letter": (
        document(normalizer=charsmap([0] * 512, b"x" * (1 << 20))),
        "replaces a character by 1,048,576 bytes",
    ),
    # the library's own panics and complaints
    "a prefix longer than tokens": (
        with_model(continuing_subword_prefix="#" * 100),
        "not a valid tokenizer",
    ),
    "a token made of nothing": (
        document(normalizer=replace(text("zz"), ""), added_tokens=[added("zz", 9)]),
        "panics",
    ),
    "a strip longer than a token": (
        document(decoder={"type": "Strip", "content": "a", "start": 5, "stop": 5}),
        "fails to decode",
    ),
    "a merge of no token": (with_model(merges=["a z"]), "not a valid tokenizer"),
    "a merge of three": (with_model(merges=["a b c"]), "not a valid tokenizer"),
    "a dropout of 1e308": (with_model(dropout=1e308), "model.dropout is 1e+308"),
    "an unknown word out of reach": (
        model("Unigram", unk_id=50, vocab=[["a", 0.0]], byte_fallback=False),
        "not a valid tokenizer",
    ),
    "an unknown model": (model("Oracle", vocab={"a": 0}), "not a valid tokenizer"),
}

HARMLESS: dict[str, Document] = {
    **VALID,
    "padding to 2^40": document(padding=FIXED_PADDING),
    "padding to a multiple of 0": document(
        padding={**FIXED_PADDING, "strategy": "BatchLongest", "pad_to_multiple_of": 0}
    ),
    "truncation to nothing": document(truncation=TRUNCATION),
    "letters between letters": document(normalizer=replace(text(""), "x")),
    "a pattern of nothing": document(pre_tokenizer=split(regex(""), "MergedWithNext", True)),
    "a pattern that tries all ways": document(pre_tokenizer=split(regex("(a+)+$"))),
    "a pattern that tries more ways": document(pre_tokenizer=split(regex("(?:a?){30}a{30}c"))),
    "a pattern of a million letters": document(pre_tokenizer=split(regex("((a{0,99}){0,99}){9}"))),
    "a pattern within itself": document(pre_tokenizer=split(regex(r"(?<x>a\g<x>?b?)"))),
    "sequences 10 deep": document(normalizer=nested(10)),
    "no unknown token": with_model(unk_token="no such token"),
    "no words": with_model(vocab={}, merges=[]),
    "no unknown word": model("WordLevel", unk_token="?", vocab={"a": 0}),
    "no unknown piece": model("Unigram", unk_id=None, vocab=[["a", 0.0]], byte_fallback=False),
    "scores without end": model(
        "Unigram", unk_id=0, vocab=[["?", -1e308], ["a", 1e308], ["aa", 1e308]], byte_fallback=False
    ),
    "tokens that take the spaces": document(
        added_tokens=[added("a", 3, lstrip=True, rstrip=True, single_word=True)]
    ),
    "a token of nothing": with_model(vocab={**VOCABULARY, "": 9}),
    "pieces of nothing": model(
        "Unigram", unk_id=0, vocab=[["?", 0.0], ["", 0.0], ["a", -1.0]], byte_fallback=False
    ),
    "ids with holes": with_model(vocab={**VOCABULARY, "z": 100_000}),
    "a decoder of nothing": document(decoder=replace(text(""), "x")),
    "a strip of everything": document(
        normalizer={"type": "Strip", "strip_left": True, "strip_right": True}
    ),
    "blank characters for words": document(
        decoder={"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}
    ),
}


def corpus() -> Iterator[tuple[str, Case]]:
    yield from NO_JSON.items()
    for name, (hostile, refusal) in REFUSED.items():
        yield name, (json.dumps(hostile).encode(), refusal)
    for name, harmless in HARMLESS.items():
        yield name, (json.dumps(harmless).encode(), None)
