"""A corpus of hostile tokenizer fields of GGUF files, each with a part of its refusal, or None
where it is harmless. It uses llama.cpp's names of fields, and nothing of cullama.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
MANY = 100_000

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁a"]
KINDS = [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * 5


def spm(**changes: Any) -> Fields:
    valid = {"model": "llama", "tokens": TOKENS, "token_type": KINDS, "bos_token_id": 1}
    fields = {**valid, "scores": [-float(it) for it in range(len(TOKENS))], **changes}
    return {name: value for name, value in fields.items() if value is not None}


def bpe(**changes: Any) -> Fields:
    valid = {"model": "gpt2", "pre": "llama-bpe", "tokens": [*TOKENS, "Ġ", "Ġa"]}
    fields = {**valid, "merges": ["a b", "Ġ a"], "bos_token_id": 1, **changes}
    return {name: value for name, value in fields.items() if value is not None}


def of(
    tokens: list[str], kind: int = NORMAL, bos_token_id: int | None = None, **changes: Any
) -> Fields:
    """SentencePiece fields of these tokens."""
    scores = [-float(it % 1000) for it in range(len(tokens))]
    kinds = [kind] * len(tokens)
    bos = {"bos_token_id": bos_token_id}
    return spm(tokens=tokens, scores=scores, token_type=kinds, **bos, **changes)


REFUSED: dict[str, tuple[Fields, str]] = {
    "no fields": ({}, "has no tokenizer.ggml.model"),
    "a model of a megabyte": (spm(model="x" * (1 << 20)), "expected one of gpt2, llama"),
    "a model of 7": (spm(model=7), "model is 7, expected a string"),
    "a splitting of a megabyte": (bpe(pre="x" * (1 << 20)), "expected one of default"),
    "no tokens": (spm(tokens=[]), "tokens is a list"),
    "tokens that are numbers": (spm(tokens=[1, 2, 3]), "expected a list of strings"),
    "tokens in an object": (spm(tokens={"a": 0}), "tokens is a dict"),
    "a token twice": (of(["a", "b", "a"]), "holds 'a' twice"),
    "a token that takes an empty one's name": (of(["a", "", "[EMPTY_1]"]), "twice"),
    "a token of a megabyte": (of(["a", "a" * (1 << 20)]), "1,048,576 characters in one"),
    "a byte-level token of a megabyte": (
        bpe(tokens=[*TOKENS, "Ġ", "Ġa", "x" * (1 << 20)]),
        "1,048,576 characters in one",
    ),
    "long pieces by the thousand": (
        of([("a" * 1000) + str(it) for it in range(2000)]),
        "expected shorter tokens",
    ),
    "kinds for other tokens": (spm(token_type=KINDS * 2), "expected 8 numbers"),
    "kinds in halves": (spm(token_type=[1.5] * 8), "expected 8 numbers"),
    "kinds in nests": (spm(token_type=[[1]] * 8), "expected 8 numbers"),
    "scores that are NaN": (spm(scores=[float("nan")] * 8), "NaN or infinity"),
    "scores without end": (spm(scores=[float("inf")] * 8), "NaN or infinity"),
    "scores that are texts": (spm(scores=["1"] * 8), "expected 8 numbers"),
    "a beginning in halves": (spm(bos_token_id=0.5), "bos_token_id is 0.5"),
    "a flag of 7": (spm(add_bos_token=7), "add_bos_token is 7"),
    "a merge of nothing": (bpe(merges=[" "]), "merges holds ' '"),
    "a merge of one": (bpe(merges=["ab"]), "merges holds 'ab'"),
    "a merge of no token": (bpe(merges=["a z"]), "not a valid tokenizer"),
    "a merge into no token": (bpe(merges=["b a"]), "not a valid tokenizer"),
    "merges that are numbers": (bpe(merges=[1]), "expected a list of strings"),
    "merges of a megabyte": (bpe(merges=["x" * (1 << 20)]), "merges holds '"),
}

HARMLESS: dict[str, Fields] = {
    "a beginning of 2^63": spm(bos_token_id=1 << 63),
    "a beginning below 0": spm(bos_token_id=-1),
    "a beginning asked for, not named": spm(bos_token_id=None, add_bos_token=True),
    "an unknown token out of reach": spm(unknown_token_id=8),
    "no scores": spm(scores=None),
    "sentencepiece": spm(),
    "byte level": bpe(),
    "one token": of(["a"]),
    "one control token": of(["a"], CONTROL),
    "all tokens are control tokens": of([f"<{it}>" for it in range(MANY)], CONTROL),
    "all tokens are the user's": of(["a" * it for it in range(1, 500)], USER_DEFINED),
    "all tokens are a letter's": of(["a" * it for it in range(1, 500)]),
    "a space is a control token": of([" ", "▁", "a"], CONTROL),
    "unknown kinds": spm(token_type=[99] * 8),
    "bytes that are no bytes": of(["<0x00>", "<0xZZ>", "<0xFFF>", "a"], BYTE),
    "empty tokens": of(["", "a", "", ""], CONTROL),
    "control characters": of(["\0", "\n", "\x1b[2J", "\u202e", "\ufeff", "\ufffd"], CONTROL),
    "a token like a template's": of(["$A", "$B:1", "[SEP]"], CONTROL, bos_token_id=0),
    "the same merge for ever": bpe(merges=["a b"] * MANY),
}


def corpus() -> Iterator[tuple[str, Fields, str | None]]:
    for name, (fields, refusal) in REFUSED.items():
        yield name, fields, refusal
    for name, fields in HARMLESS.items():
        yield name, fields, None
