"""Builds the tokenizer of a folder without tokenizer.json: from the files that older models have.

These are vocab.json with merges.txt, as of GPT-2 and Qwen 2, and SentencePiece's tokenizer.model,
as of Llama 2. They are described as a GGUF file would describe them, and built as that is, in
`gguf_tokenizer.py`; what the format leaves to a class of transformers is as there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from ..errors import ModelFileError, NoTokenizerError
from ..files.fields import Fields, load_json
from ..files.regular_file import open_regular_file, short_repr
from ..text.rust_panics import library_errors
from .bos_and_eos import surrounding
from .gguf_tokenizer import (
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    UNUSED,
    Vocabulary,
    add_tokens,
    build_tokenizer,
    marks_template,
    write_spaces,
)
from .sentencepiece_file import SentencePieceModel, parse_model
from .template_files import CONFIG, folder_names
from .tokenizer_probe import MAX_TOKEN_ID, UnsafeTokenizerError, check

VOCABULARY, MERGES, SENTENCEPIECE = "vocab.json", "merges.txt", "tokenizer.model"

MAX_FILE_BYTES = 64 << 20
MAX_MODEL_BYTES = 16 << 20  # of tokenizer.model, read field by field; known ones have up to 5 MB
MAX_VALUES = 1 << 21

# How the tokenizer classes of transformers that read vocab.json split a text, by GGUF's names;
# a folder that names no class goes by its model.
SPLITTING_OF = {"GPT2Tokenizer": "gpt-2", "CodeGenTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
CLASS_OF = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}

# The score of control pieces of a unigram model, far below others: no text is to become one.
UNLIKELY = -1000.0


def build_older(folder: Path) -> tuple[Path, Tokenizer]:
    """Build the tokenizer of a folder from the files that older models have.

    Returns:
        The file that messages name, and the tokenizer.

    Raises:
        NoTokenizerError: there is none, or one of a kind that is not built here.
        ModelFileError: the files are damaged, or do not fit one another.
    """
    vocabulary, merges, model = (folder / name for name in (VOCABULARY, MERGES, SENTENCEPIECE))
    config = Fields.of_file(folder / CONFIG)
    if vocabulary.exists() and merges.exists():
        tokenizer = _byte_level(vocabulary, merges, _splitting(folder, config))
        if config.flag("add_bos_token", False):  # which transformers obeys for these
            bos = folder_names(folder).get("bos_token", "<|endoftext|>")
            if (index := tokenizer.token_to_id(bos)) is not None:
                tokenizer.post_processor = surrounding({"bos": (index, bos)})
        return vocabulary, tokenizer
    if not model.exists():
        raise NoTokenizerError(
            f"{folder}: has no tokenizer.json, nor {VOCABULARY} with {MERGES}, nor "
            f"{SENTENCEPIECE}; give token ids, or add the file the model came with"
        )
    content = _read(model, "a SentencePiece model", MAX_MODEL_BYTES)
    # transformers 4 encodes behind control tokens in another way where this is false.
    is_legacy = config.flag("legacy", True)
    return model, _sentencepiece(model, parse_model(model, content), is_legacy)


def _read(path: Path, what: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    with open_regular_file(path, what) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ModelFileError(f"{path}: holds more than {max_bytes:,} bytes, expected fewer")
    return content


# --- vocab.json and merges.txt


def _splitting(folder: Path, config: Fields) -> str:
    kind = config.text("tokenizer_class", None)
    if kind is None:
        model = Fields.of_file(folder / "config.json").text("model_type", "")
        kind = CLASS_OF.get(model, "GPT2Tokenizer")
    if (name := SPLITTING_OF.get(kind.removesuffix("Fast"))) is None:
        raise NoTokenizerError(
            f"{config.path}: tokenizer_class is {short_repr(kind)}, and {VOCABULARY} does not say "
            f"how that splits text, expected {', '.join(SPLITTING_OF)}, or a tokenizer.json; "
            "give token ids"
        )
    return name


def _byte_level(vocabulary: Path, merges: Path, pre: str) -> Tokenizer:
    ids = load_json(vocabulary, MAX_FILE_BYTES, MAX_VALUES)
    for token, index in ids.items():
        if type(index) is not int or not 0 <= index < min(MAX_TOKEN_ID, 4 * len(ids)):
            raise ModelFileError(
                f"{vocabulary}: the id of token {short_repr(token)} is {short_repr(index)}, "
                f"expected a whole number below {min(MAX_TOKEN_ID, 4 * len(ids)):,}"
            )
    texts = {index: token for token, index in ids.items()}
    if len(texts) < len(ids):
        raise ModelFileError(f"{vocabulary}: two tokens have one id, expected an id for each")
    try:
        lines = _read(merges, "merges, one a line").decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{merges}: is not text: {error}, expected UTF-8") from None
    tokens = [
        texts.get(index, f"[unused id {index}]") for index in range(max(texts, default=0) + 1)
    ]
    fields = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "merges": [it for it in lines if it and not it.startswith("#version")],
        "add_bos_token": False,
    }
    return build_tokenizer(fields, merges, prefix="")


# --- tokenizer.model


def _sentencepiece(path: Path, model: SentencePieceModel, is_legacy: bool) -> Tokenizer:
    fields = {
        "model": "llama",
        "tokens": model.texts,
        "scores": np.array(model.scores, np.float32),
        "token_type": np.array(model.kinds, np.int64),
        "unknown_token_id": model.unknown_id,
        "bos_token_id": model.bos_id,
        "eos_token_id": model.eos_id,
        "add_space_prefix": model.has_dummy_prefix,
    }
    build = _unigram if model.is_unigram else build_tokenizer
    tokenizer = build(fields, path, prefix="")
    before: list[normalizers.Normalizer] = []
    if model.charsmap:
        before.append(_charsmap(path, model.charsmap))
    if model.removes_spaces:
        # In this order: a search for all spaces at the end takes the square of a row of them.
        before.append(normalizers.Replace(Regex(" {2,}"), " "))
        before.append(normalizers.Replace(Regex(r"\A | \z"), ""))
    own = tokenizer.normalizer
    assert own is not None, "spaces are written by it"
    if not is_legacy and model.has_dummy_prefix:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
        own = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([*before, own])
    return tokenizer


def _unigram(metadata: Mapping[str, Any], path: Path, prefix: str) -> Tokenizer:
    """Build a tokenizer that takes the pieces whose scores have the greatest sum."""
    fields = Fields(path, metadata, prefix)
    vocabulary = Vocabulary.from_fields(fields)
    scored = [
        (text, UNLIKELY if kind in (CONTROL, UNKNOWN, UNUSED) else float(score))
        for text, score, kind in zip(
            vocabulary.tokens, metadata["scores"], vocabulary.kinds, strict=True
        )
    ]
    unknown = fields.token_id("unknown_token_id", len(scored)) or 0
    with library_errors(path):
        tokenizer = Tokenizer(Unigram(scored, unknown, byte_fallback=BYTE in vocabulary.kinds))
        write_spaces(tokenizer, metadata["add_space_prefix"])
        template = marks_template(fields, vocabulary, add_bos=True)
        if template is not None:
            tokenizer.post_processor = template
        add_tokens(tokenizer, vocabulary)
    return tokenizer


def _charsmap(path: Path, table: bytes) -> normalizers.Normalizer:
    """Return a normalizer that replaces characters by SentencePiece's table, once it is checked."""
    text = base64.b64encode(table).decode()
    try:
        check({"normalizer": {"type": "Precompiled", "precompiled_charsmap": text}})
    except UnsafeTokenizerError as error:
        raise ModelFileError(f"{path}: {error}") from None
    with library_errors(path):
        return normalizers.Precompiled(table)
