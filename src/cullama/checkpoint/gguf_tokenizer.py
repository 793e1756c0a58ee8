"""Builds a tokenizer of the `tokenizers` library from the metadata of a GGUF file.

Two kinds are built: "gpt2" (byte-level BPE, ordered by merges) with the pre-tokenizers of
`splittings.py`, and "llama" (SentencePiece BPE, ordered by scores). It reads no files and no chat
templates.

What the GGUF specification leaves open follows llama.cpp's `llama-vocab.cpp`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from ..errors import ModelFileError, NoTokenizerError
from ..files.fields import Fields
from ..files.tensor import HostArray
from ..text.control_tokens import END_NAMES
from ..text.rust_panics import library_errors
from .bos_and_eos import surrounding
from .splittings import FIRST_NAMES, SPLITTINGS
from .tokenizer_probe import MAX_TOKEN_LENGTH

_log = logging.getLogger("cullama")

# `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "▁"  # SentencePiece's space

# Finding the merges of a token costs the square of its length. A usual vocabulary of 256 K takes a
# tenth of this; as many of the longest tokens allowed would take an hour.
MAX_MERGE_WORK = 1 << 28


def build_tokenizer(
    metadata: Mapping[str, Any], path: Path = Path("GGUF"), prefix: str = "tokenizer.ggml."
) -> Tokenizer:
    """Build the tokenizer that `metadata` describes; `path` is for messages.

    Raises:
        NoTokenizerError: there is none, or one of a kind that is not built here.
        ModelFileError: its fields do not fit one another.
    """
    fields = Fields(path, metadata, prefix)
    model = fields.text("model", None)
    if model is None:
        raise NoTokenizerError(f"{path}: has no {prefix}model; give token ids")
    if model not in ("gpt2", "llama"):
        raise _unknown_kind(fields, "model", model, ("gpt2", "llama"))
    vocabulary = Vocabulary.from_fields(fields)
    build = _build_byte_level if model == "gpt2" else _build_sentencepiece
    with library_errors(f"{path}: {prefix}".rstrip(": .")):
        tokenizer = build(fields, vocabulary)
        # GGUF has no field for control tokens that drop the space behind them, as Phi-3's do;
        # llama.cpp, too, goes by the model's name.
        name = str(metadata.get("general.name", "")).lower()
        add_tokens(tokenizer, vocabulary, strips_right="phi-3" in name or "phi3" in name)
    return tokenizer


def _unknown_kind(fields: Fields, name: str, found: str, known: Sequence[str]) -> NoTokenizerError:
    return NoTokenizerError(
        f"{fields.path}: {fields.prefix}{name} is {found[:80]!r}, expected one of "
        f"{', '.join(known)}; give token ids, or use a model in safetensors"
    )


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file, in its order."""

    tokens: list[str]  # by id
    kinds: list[int]  # by id
    ids: dict[str, int]

    @classmethod
    def from_fields(cls, fields: Fields) -> Vocabulary:
        """Read `tokens` and `token_type`.

        Raises:
            ModelFileError: a token is there twice or too long; the two do not fit one another.
        """
        # No text can match an empty token; llama.cpp gives them this name.
        tokens = [
            token or f"[EMPTY_{index}]" for index, token in enumerate(_texts(fields, "tokens"))
        ]
        longest = max(map(len, tokens))
        if longest > MAX_TOKEN_LENGTH:
            what = f"holds {longest:,} characters in one, expected at most {MAX_TOKEN_LENGTH:,}"
            raise _error(fields, "tokens", what)
        ids = {token: index for index, token in enumerate(tokens)}
        if len(ids) < len(tokens):
            twice = next(token for index, token in enumerate(tokens) if ids[token] != index)
            raise _error(fields, "tokens", f"holds {twice[:80]!r} twice, expected each token once")

        if "token_type" in fields:
            kinds: list[int] = _numbers(fields, "token_type", len(tokens), "iu").tolist()
        else:
            kinds = [NORMAL] * len(tokens)
            for name in ("unknown_token_id", "bos_token_id", "eos_token_id"):
                token_id = fields.token_id(name, len(tokens))
                if token_id is not None:
                    kinds[token_id] = CONTROL
        for name in END_NAMES & ids.keys():  # whatever their type: files often have it wrong
            kinds[ids[name]] = CONTROL
        return cls(tokens, kinds, ids)


def _texts(fields: Fields, name: str) -> list[str]:
    texts = fields.values.get(fields.prefix + name)
    if not isinstance(texts, list) or not texts or not all(isinstance(it, str) for it in texts):
        found = "missing" if texts is None else f"a {type(texts).__name__}"
        raise _error(fields, name, f"is {found}, expected a list of strings")
    return texts


def _numbers(fields: Fields, name: str, count: int, dtype_kinds: str) -> HostArray:
    numbers = np.asarray(fields.values.get(fields.prefix + name, ()))
    if numbers.shape != (count,) or numbers.dtype.kind not in dtype_kinds:
        found = f"of type {numbers.dtype} and shape {list(numbers.shape)}"
        raise _error(fields, name, f"is {found}, expected {count} numbers, one for each token")
    return numbers


def _error(fields: Fields, name: str, what: str) -> ModelFileError:
    return ModelFileError(f"{fields.path}: {fields.prefix}{name} {what}")


def add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary, strips_right: bool = False) -> None:
    """Add control and user-defined tokens, which are matched before the text is split."""
    keep = ("<unk>", "<s>", "<|endoftext|>")  # Phi-3's that keep the space behind them
    for special, kinds in ((True, (UNKNOWN, CONTROL)), (False, (USER_DEFINED,))):
        tokenizer.add_tokens(
            [
                AddedToken(
                    token,
                    normalized=False,
                    special=special,
                    rstrip=strips_right and token not in keep,
                )
                for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
                if kind in kinds
            ]
        )


def marks_template(
    fields: Fields, vocabulary: Vocabulary, add_bos: bool, add_eos: bool = False
) -> TemplateProcessing | None:
    """Add BOS before and EOS after a text where the file, or its kind by default, asks for them."""
    marks = {}
    for mark, default in (("bos", add_bos), ("eos", add_eos)):
        index = fields.token_id(f"{mark}_token_id", len(vocabulary.tokens))
        is_wanted = fields.flag(f"add_{mark}_token", default and index is not None)
        if is_wanted and index is not None:
            marks[mark] = index, vocabulary.tokens[index]
        elif is_wanted:
            text = f"add_{mark}_token is true, and {mark}_token_id no token: none is added"
            _log.warning("%s: %s%s", fields.path, fields.prefix, text)
    return surrounding(marks) if marks else None


# gpt2: byte-level BPE


def _build_byte_level(fields: Fields, vocabulary: Vocabulary) -> Tokenizer:
    name = fields.text("pre", None) or "default"
    if name not in SPLITTINGS:
        raise _unknown_kind(fields, "pre", name, FIRST_NAMES)
    splitting = SPLITTINGS[name]
    merges = _merge_pairs(fields)
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=splitting.ignore_merges)
    )
    if splitting.normalize:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(it), "isolated") for it in splitting.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    template = marks_template(fields, vocabulary, add_bos=splitting.add_bos)
    if template is not None:
        tokenizer.post_processor = template
    return tokenizer


def _merge_pairs(fields: Fields) -> list[tuple[str, str]]:
    pairs = []
    for merge in _texts(fields, "merges"):
        left, _, right = merge.partition(" ")
        if not left or not right:
            raise _error(
                fields, "merges", f"holds {merge[:80]!r}, expected two tokens and a space between"
            )
        pairs.append((left, right))
    return pairs


# llama: SentencePiece BPE


def _build_sentencepiece(fields: Fields, vocabulary: Vocabulary) -> Tokenizer:
    unknown = fields.token_id("unknown_token_id", len(vocabulary.tokens)) or 0
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary.ids,
            merges=_merges_by_score(fields, vocabulary),
            unk_token=vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    write_spaces(tokenizer, fields.flag("add_space_prefix", True))
    template = marks_template(fields, vocabulary, add_bos=True)
    if template is not None:
        tokenizer.post_processor = template
    return tokenizer


def write_spaces(tokenizer: Tokenizer, has_prefix: bool) -> None:
    """Make a tokenizer write spaces as SentencePiece does, with one before a text, or without."""
    before = [normalizers.Prepend(SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )


def _merges_by_score(fields: Fields, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, those of the highest score first.

    SentencePiece merges the two neighbours that make the token of the highest score, so this order
    of merges has the same effect. Of two pairs that make the same token, SentencePiece takes the
    leftmost, which no order expresses; the pair with the longer left part goes first, as in
    transformers' conversion.
    """
    if "scores" not in fields:
        text = "is missing: tokens are merged in the order of the vocabulary"
        _log.warning("%s: %sscores %s", fields.path, fields.prefix, text)
        scores = np.zeros(len(vocabulary.tokens), np.float32)
    else:
        scores = _numbers(fields, "scores", len(vocabulary.tokens), "fi")
    if not np.isfinite(scores).all():
        raise _error(fields, "scores", "holds NaN or infinity, expected finite numbers")
    # Only normal tokens: no text may be merged into a control token.
    normal = [index for index, kind in enumerate(vocabulary.kinds) if kind == NORMAL]
    tokens = {vocabulary.tokens[index] for index in normal}
    work = sum(len(token) ** 2 for token in tokens)
    if work > MAX_MERGE_WORK:
        count = f"{sum(map(len, tokens)):,} characters in {len(tokens):,} tokens"
        raise _error(fields, "tokens", f"holds {count}, expected shorter tokens")
    merges = []
    for index in sorted(normal, key=lambda index: -scores[index]):
        token = vocabulary.tokens[index]
        for cut in range(len(token) - 1, 0, -1):
            left, right = token[:cut], token[cut:]
            if left in tokens and right in tokens:
                merges.append((left, right))
    return merges
