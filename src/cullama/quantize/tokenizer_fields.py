"""Writes a checkpoint's tokenizer and chat template as GGUF metadata.

The fields of a GGUF source are copied. A tokenizer.json can express more than GGUF, so its fields
are built back into a tokenizer, which has to give the ids of the original; that comparison is in
`tokenizer_equivalence.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from ..checkpoint.template_files import GGUF_NAMES, gguf_names
from ..errors import ChatTemplateError, UnsupportedModelError
from ..text.tokenizer import Tokenizer
from .tokenizer_equivalence import PREFIX, differing_texts, is_equivalent

if TYPE_CHECKING:
    import tokenizers

Metadata = dict[str, Any]
Merge = tuple[str, str]
Integers = NDArray[np.int32]

TEMPLATE = "tokenizer.chat_template"
NO_VOCABULARY = "no_vocab"  # llama.cpp's name for a model without a tokenizer
ENDS = ("eos", "eot", "eom")  # the end tokens that GGUF has names for

# Pre-tokenizers to try, by their names in `tokenizer.ggml.pre`; llama.cpp and cullama know them.
PRE_TOKENIZERS = (
    *("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken", "smaug-bpe", "deepseek-llm"),
    *("deepseek-coder", "deepseek-v3", "gpt-4o", "seed-coder", "stablelm2", "falcon", "bloom"),
)


class _InexpressibleError(Exception):
    """GGUF cannot express the tokenizer; the message is the reason."""


def tokenizer_fields(checkpoint: Checkpoint, source: Metadata) -> tuple[Metadata, list[str]]:
    """Return the metadata of tokenizer and chat template, and notes on what it leaves out.

    Args:
        source: the metadata of a checkpoint that is a GGUF file; empty for others.

    Raises:
        UnsupportedModelError: GGUF cannot express this tokenizer.
        NoTokenizerError: there is none; `bare_fields` writes the model without.
        ModelFileError: the tokenizer's files are damaged.
    """
    if source.get(f"{PREFIX}model", NO_VOCABULARY) != NO_VOCABULARY:
        return {key: source[key] for key in source if key.startswith("tokenizer.")}, []
    tokenizer = checkpoint.load_tokenizer()
    try:
        fields = _translated(checkpoint, tokenizer)
    except _InexpressibleError as error:
        raise UnsupportedModelError(
            f"{checkpoint.path}: GGUF cannot express its tokenizer: {error}; "
            "add --no-tokenizer to write the model without it"
        ) from None
    template, notes = _template(checkpoint, fields)
    different = differing_texts(tokenizer, fields)
    if different:
        notes.append(f"the tokenizer in GGUF encodes differently: {', '.join(different)}")
    ends = len(checkpoint.config.eos_ids)
    if ends > len(ENDS):
        notes.append(
            f"of the model's {ends} end tokens, GGUF has names for {len(ENDS)}: {', '.join(ENDS)}"
        )
    return {**fields, **template}, notes


def bare_fields(checkpoint: Checkpoint) -> Metadata:
    """Return the metadata of a model without a tokenizer: the ids of BOS and the end tokens."""
    return {f"{PREFIX}model": NO_VOCABULARY, **_ids(checkpoint, [])}


# -------------------------------------------------------------------------------------- translation


def _translated(checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer) -> Metadata:
    document = json.loads(tokenizer.to_str())
    tokens, kinds = _vocabulary(document, checkpoint.config.vocab_size)
    shared = _named({"tokens": tokens, "token_type": kinds}) | _ids(checkpoint, tokens)
    if UNKNOWN in kinds:
        shared[f"{PREFIX}unknown_token_id"] = kinds.tolist().index(UNKNOWN)
    marks = Tokenizer(tokenizer).encode("")  # BOS and EOS, as far as it adds them to a text
    has_bos = marks[:1] == [shared.get(f"{PREFIX}bos_token_id")]
    has_eos = marks[has_bos:] == [shared.get(f"{PREFIX}eos_token_id")]
    shared |= _named({"add_bos_token": has_bos, "add_eos_token": has_eos})
    for candidate in _candidate_fields(document["model"], tokens, kinds):
        found = shared | _named(candidate)
        if is_equivalent(tokenizer, found):
            return found
    raise _InexpressibleError("it gives other ids than any tokenizer that GGUF can name")


def _named(fields: Mapping[str, Any]) -> Metadata:
    return {PREFIX + name: value for name, value in fields.items()}


def _vocabulary(document: dict[str, Any], size: int) -> tuple[list[str], Integers]:
    """Return tokens by id, and the kind of each; ids without a token get an unused one."""
    model, added = document["model"], document["added_tokens"]
    if model["type"] != "BPE":
        raise _InexpressibleError(f"its model is {model['type']}, expected BPE")
    texts = {index: token for token, index in model["vocab"].items()}
    byte_tokens = {f"<0x{byte:02X}>" for byte in range(256)} if model["byte_fallback"] else ()
    kinds = {index: BYTE if it in byte_tokens else NORMAL for index, it in texts.items()}
    texts |= {token["id"]: token["content"] for token in added}
    kinds |= {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    kinds |= {index: UNKNOWN for index, token in texts.items() if token == model["unk_token"]}
    if max(texts) >= size:
        raise _InexpressibleError(f"it has {max(texts) + 1:,} tokens, and the model {size:,}")
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(size)]
    return tokens, np.array([kinds.get(index, UNUSED) for index in range(size)], np.int32)


def _candidate_fields(
    model: dict[str, Any], tokens: list[str], kinds: Integers
) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of the model that GGUF has, to be tried in turn."""
    merges = [(left, right) for left, right in model["merges"]]
    if not model["byte_fallback"]:
        plain = [f"{left} {right}" for left, right in merges]
        for pre in PRE_TOKENIZERS:
            yield {"model": "gpt2", "pre": pre, "merges": plain}
        return
    # A token is always merged in the same way, because what lies within its bounds merges as it
    # would alone. So one score for each token, minus the rank of its last merge, expresses as much
    # as one rank for each pair.
    ranks = {merge: rank for rank, merge in reversed(list(enumerate(merges)))}
    scores = np.array([-float(_last_rank(token, ranks)) for token in tokens], np.float32)
    is_made = (scores > -len(merges)) | np.array([len(token) < 2 for token in tokens])
    for add_space_prefix in (True, False):
        yield {
            "model": "llama",
            "pre": "default",
            "scores": scores,
            "token_type": np.where(is_made | (kinds != NORMAL), kinds, UNUSED),
            "add_space_prefix": add_space_prefix,
        }


def _last_rank(token: str, ranks: Mapping[Merge, int]) -> int:
    """Return the rank of the last merge that makes a token; len(ranks) if no merges make it."""
    pieces, last = list(token), len(ranks)
    while len(pieces) > 1:
        rank, at = min((ranks.get(pair, inf), at) for at, pair in enumerate(pairwise(pieces)))
        if rank == inf:
            return len(ranks)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        last = int(rank)
    return last


# ---------------------------------------------------------------------------------- special tokens


def _ids(checkpoint: Checkpoint, tokens: list[str]) -> Metadata:
    """Return the ids of BOS, end tokens and so on; the template's own end token is the EOS."""
    names, ends = checkpoint.template_names(), checkpoint.config.eos_ids
    ids = {token: index for index, token in enumerate(tokens)}
    roles = {role: ids.get(names.get(name, "")) for name, role in GGUF_NAMES.items()}
    if roles["bos"] is None:
        roles["bos"] = checkpoint.config.bos_id
    if (named := roles["eos"]) is not None and (named in ends or not ends):
        ends = (named, *(end for end in ends if end != named))
    roles |= {"eos": None, **dict(zip(ENDS, ends, strict=False))}
    return {f"{PREFIX}{role}_token_id": index for role, index in roles.items() if index is not None}


def _template(checkpoint: Checkpoint, fields: Metadata) -> tuple[Metadata, list[str]]:
    """Return the chat templates, and notes on tokens whose strings change for it."""
    try:
        template = checkpoint.load_chat_template()
    except ChatTemplateError as error:
        return {}, [f"the chat template is left out: {error}"]
    if template is None:
        return {}, []
    before, after = checkpoint.template_names(), gguf_names(fields, checkpoint.path)
    changed = [
        f"the chat template's {name}: was {before.get(name)!r}, is {after.get(name)!r} in the file"
        for name in GGUF_NAMES
        if name in template.source and before.get(name) != after.get(name)
    ]
    written = {TEMPLATE: template.source}
    if template.for_tools is not None:
        written[f"{TEMPLATE}.tool_use"] = template.for_tools.source
    return written, changed
