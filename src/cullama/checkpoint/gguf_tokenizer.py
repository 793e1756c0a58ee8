"""Builds a tokenizer of the `tokenizers` library from the metadata of a GGUF file.

Two kinds are built: "gpt2" (byte-level BPE, ordered by merges) with the pre-tokenizers that
llama.cpp has names for, and "llama" (SentencePiece BPE, ordered by scores). It reads no files and
no chat templates.

What the GGUF specification leaves open follows llama.cpp's `llama-vocab.cpp`.
"""

from __future__ import annotations

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
from ..text.rust_panics import is_panic
from .bos_and_eos import surrounding
from .tokenizer_probe import MAX_TOKEN_LENGTH

# `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "▁"  # SentencePiece's space

# Finding the merges of a token costs the square of its length. A usual vocabulary of 256 K takes a
# tenth of this; as many of the longest tokens allowed would take an hour.
MAX_MERGE_WORK = 1 << 28


def build_tokenizer(metadata: Mapping[str, Any], path: Path = Path("GGUF")) -> Tokenizer:
    """Build the tokenizer that `metadata` describes; `path` is for messages.

    Raises:
        NoTokenizerError: there is none, or one of a kind that is not built here.
        ModelFileError: its fields do not fit one another.
    """
    fields = Fields(path, metadata, prefix="tokenizer.ggml.")
    model = fields.text("model", None)
    if model is None:
        raise NoTokenizerError(f"{path}: has no tokenizer.ggml.model; give token ids")
    if model not in ("gpt2", "llama"):
        raise _unknown_kind(fields, "model", model, ("gpt2", "llama"))
    vocabulary = _Vocabulary.from_fields(fields)
    build = _build_byte_level if model == "gpt2" else _build_sentencepiece
    try:
        tokenizer = build(fields, vocabulary)
        _add_tokens(tokenizer, vocabulary)
    except (ModelFileError, NoTokenizerError):
        raise
    except BaseException as error:  # the library raises plain Exception, or panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelFileError(f"{path}: tokenizer.ggml: not a valid tokenizer: {error}") from None
    return tokenizer


def _unknown_kind(fields: Fields, name: str, found: str, known: Sequence[str]) -> NoTokenizerError:
    return NoTokenizerError(
        f"{fields.path}: {fields.prefix}{name} is {found[:80]!r}, expected one of "
        f"{', '.join(known)}; give token ids, or use a model in safetensors"
    )


@dataclass(frozen=True)
class _Vocabulary:
    tokens: list[str]  # by id
    kinds: list[int]  # by id
    ids: dict[str, int]

    @classmethod
    def from_fields(cls, fields: Fields) -> _Vocabulary:
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
                token_id = fields.integer(name, None, low=0, high=len(tokens) - 1)
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


def _add_tokens(tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    """Add control and user-defined tokens, which are matched before the text is split."""
    for special, kinds in ((True, (UNKNOWN, CONTROL)), (False, (USER_DEFINED,))):
        tokenizer.add_tokens(
            [
                AddedToken(token, normalized=False, special=special)
                for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
                if kind in kinds
            ]
        )


def _template(
    fields: Fields, vocabulary: _Vocabulary, add_bos: bool, add_eos: bool = False
) -> TemplateProcessing | None:
    """Add BOS before and EOS after a text where the file, or its kind by default, asks for them."""
    marks = {}
    for mark, default in (("bos", add_bos), ("eos", add_eos)):
        index = fields.integer(f"{mark}_token_id", None, low=0, high=len(vocabulary.tokens) - 1)
        if fields.flag(f"add_{mark}_token", default and index is not None):
            if index is None:
                raise _error(fields, f"{mark}_token_id", "is missing, expected the token to add")
            marks[mark] = index, vocabulary.tokens[index]
    return surrounding(marks) if marks else None


# gpt2: byte-level BPE

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"


@dataclass(frozen=True)
class _Splitting:
    """A pre-tokenizer: how text is split into words, inside which tokens are merged."""

    patterns: tuple[str, ...]  # applied in turn, each to what those before it left whole
    normalize: bool = False  # to NFC, before splitting
    # As in tiktoken, which these come from: a word that is a token needs no merges to become it.
    ignore_merges: bool = False
    add_bos: bool = False  # where the file does not say


_LLAMA3 = _Splitting(
    ("|".join([_ENDINGS, _WORD, r"\p{N}{1,3}", _SYMBOLS, _SPACES]),),
    ignore_merges=True,
    add_bos=True,
)

# By `tokenizer.ggml.pre`. The patterns are those of the tokenizer.json of GPT-2, SmolLM, Llama 3,
# Qwen 2 and Mistral Nemo. "default" is llama.cpp's, for files without `tokenizer.ggml.pre`.
_SPLITTINGS = {
    "default": _Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": _Splitting((_GPT2,)),
    "smollm": _Splitting((r"\p{N}", _GPT2)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Splitting(
        ("|".join([_ENDINGS, _WORD, r"\p{N}", _SYMBOLS, _SPACES]),), normalize=True
    ),
    "tekken": _Splitting(
        ("|".join([_CASED_WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _SPACES]),),
        ignore_merges=True,
        add_bos=True,
    ),
}


def _build_byte_level(fields: Fields, vocabulary: _Vocabulary) -> Tokenizer:
    name = fields.text("pre", None) or "default"
    if name not in _SPLITTINGS:
        raise _unknown_kind(fields, "pre", name, tuple(_SPLITTINGS))
    splitting = _SPLITTINGS[name]
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
    template = _template(fields, vocabulary, add_bos=splitting.add_bos)
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


def _build_sentencepiece(fields: Fields, vocabulary: _Vocabulary) -> Tokenizer:
    unknown = fields.integer("unknown_token_id", 0, low=0, high=len(vocabulary.tokens) - 1)
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary.ids,
            merges=_merges_by_score(fields, vocabulary),
            unk_token=vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    add_space = fields.flag("add_space_prefix", True)
    before = [normalizers.Prepend(SPACE)] if add_space else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if add_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    template = _template(fields, vocabulary, add_bos=True)
    if template is not None:
        tokenizer.post_processor = template
    return tokenizer


def _merges_by_score(fields: Fields, vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, those of the highest score first.

    SentencePiece merges the two neighbours that make the token of the highest score, so this order
    of merges has the same effect. Of two pairs that make the same token, SentencePiece takes the
    leftmost, which no order expresses; the pair with the longer left part goes first, as in
    transformers' conversion.
    """
    scores = _numbers(fields, "scores", len(vocabulary.tokens), "f")
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
