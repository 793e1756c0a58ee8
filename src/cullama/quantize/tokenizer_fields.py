"""A checkpoint's tokenizer and chat template in the words of GGUF's metadata.

A GGUF file's own words are taken over. A tokenizer.json says more than GGUF can, so what becomes of
one is read back, and has to give the ids of the original. It knows both spellings; by which texts
two tokenizers are told apart is `tokenizer_equivalence`'s.
"""

from __future__ import annotations

import json
import re
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
NO_VOCABULARY = "no_vocab"  # llama.cpp's word for a model of bare token ids
ENDS = ("eos", "eot", "eom")  # as many end tokens as there are names for

# Ways of splitting text into words that `tokenizer.ggml.pre` has names for, in llama.cpp and here.
SPLITTINGS = ("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken")


class _UnsayableError(Exception):
    """What of a tokenizer GGUF has no words for."""


def tokenizer_fields(checkpoint: Checkpoint, said: Metadata) -> tuple[Metadata, list[str]]:
    """Metadata that says which token is which, and notes on what it leaves out.

    Args:
        said: the metadata of a checkpoint that is a GGUF file.

    Raises:
        UnsupportedModelError: GGUF cannot say this tokenizer.
        NoTokenizerError: there is none; `bare_fields` writes the model without.
        ModelFileError: the files that tell are damaged.
    """
    if said.get(f"{PREFIX}model", NO_VOCABULARY) != NO_VOCABULARY:
        return {key: said[key] for key in said if key.startswith("tokenizer.")}, []
    tokenizer = checkpoint.load_tokenizer()
    try:
        fields = _translated(checkpoint, tokenizer)
    except _UnsayableError as error:
        raise UnsupportedModelError(
            f"{checkpoint.path}: its tokenizer cannot be said in GGUF: {error}; "
            "add --no-tokenizer to write the model without it"
        ) from None
    template, notes = _template(checkpoint, fields)
    otherwise = differing_texts(tokenizer, fields)
    if otherwise:
        notes.append(f"a tokenizer in GGUF reads a little otherwise: {', '.join(otherwise)}")
    return {**fields, **template}, [*notes, *_lost_ends(checkpoint)]


def bare_fields(checkpoint: Checkpoint) -> Metadata:
    """Metadata of a model without a tokenizer: which token ids begin and end a text."""
    return {f"{PREFIX}model": NO_VOCABULARY, **_ids(checkpoint, [])}


# -------------------------------------------------------------------------------------- translation


def _translated(checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer) -> Metadata:
    document = json.loads(tokenizer.to_str())
    tokens, kinds = _vocabulary(document, checkpoint.config.vocab_size)
    shared = _named({"tokens": tokens, "token_type": kinds}) | _ids(checkpoint, tokens)
    if UNKNOWN in kinds:
        shared[f"{PREFIX}unknown_token_id"] = kinds.tolist().index(UNKNOWN)
    shared |= _edges(tokenizer, shared)
    for candidate in _candidates(document["model"], tokens, kinds):
        found = shared | _named(candidate)
        if is_equivalent(tokenizer, found):
            return found
    raise _UnsayableError("it gives other ids than any tokenizer that GGUF has a name for")


def _named(fields: Mapping[str, Any]) -> Metadata:
    return {PREFIX + name: value for name, value in fields.items()}


def _vocabulary(document: dict[str, Any], size: int) -> tuple[list[str], Integers]:
    """Tokens by id, and of what kind each is; ids without a token get one that is never used."""
    model, added = document["model"], document["added_tokens"]
    if model["type"] != "BPE":
        raise _UnsayableError(f"its model is {model['type']}, expected BPE")
    texts = {index: token for token, index in model["vocab"].items()}
    kinds = {index: _plain_kind(token, model) for index, token in texts.items()}
    texts |= {token["id"]: token["content"] for token in added}
    kinds |= {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    kinds |= {index: UNKNOWN for index, token in texts.items() if token == model["unk_token"]}
    if max(texts) >= size:
        raise _UnsayableError(f"it has {max(texts) + 1:,} tokens, and the model {size:,}")
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(size)]
    return tokens, np.array([kinds.get(index, UNUSED) for index in range(size)], np.int32)


def _plain_kind(token: str, model: dict[str, Any]) -> int:
    is_byte = model["byte_fallback"] and re.fullmatch("<0x[0-9A-F]{2}>", token)
    return BYTE if is_byte else NORMAL


def _candidates(
    model: dict[str, Any], tokens: list[str], kinds: Integers
) -> Iterator[dict[str, Any]]:
    """What a file could say of how text becomes tokens."""
    merges = [(left, right) for left, right in model["merges"]]
    if not model["byte_fallback"]:
        plain = [f"{left} {right}" for left, right in merges]
        for pre in SPLITTINGS:
            yield {"model": "gpt2", "pre": pre, "merges": plain}
        return
    scores = _scores(tokens, merges)
    is_made = (scores > -len(merges)) | np.array([len(token) < 2 for token in tokens])
    for add_space_prefix in (True, False):
        yield {
            "model": "llama",
            "pre": "default",
            "scores": scores,
            "token_type": np.where(is_made | (kinds != NORMAL), kinds, UNUSED),
            "add_space_prefix": add_space_prefix,
        }


def _scores(tokens: list[str], merges: list[Merge]) -> NDArray[np.float32]:
    """Scores that merge as the ranks of merges do: the rank of the last merge that makes a piece.

    A piece is made in one way only, wherever it stands: what lies within its bounds merges as it
    would alone. So a score for each piece says as much as a rank for each pair.
    """
    ranks = {merge: rank for rank, merge in reversed(list(enumerate(merges)))}
    made = [_last_rank(token, ranks) for token in tokens]
    return np.array([-float(rank) for rank in made], np.float32)


def _last_rank(token: str, ranks: Mapping[Merge, int]) -> int:
    """Of the merges that make a token; for one that is not made by merging, one more than any."""
    pieces, last = list(token), len(ranks)
    while len(pieces) > 1:
        rank, at = min((ranks.get(pair, inf), at) for at, pair in enumerate(pairwise(pieces)))
        if rank == inf:
            return len(ranks)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        last = int(rank)
    return last


# ------------------------------------------------------------------------------------------ special


def _ids(checkpoint: Checkpoint, tokens: list[str]) -> Metadata:
    """The tokens with a role. The end token that the chat template may name comes first."""
    names, ends = checkpoint.template_names(), checkpoint.config.eos_ids
    ids = {token: index for index, token in enumerate(tokens)}
    roles = {role: ids.get(names.get(name, "")) for name, role in GGUF_NAMES.items()}
    if roles["bos"] is None:
        roles["bos"] = checkpoint.config.bos_id
    if (named := roles["eos"]) is not None and (named in ends or not ends):
        ends = (named, *(end for end in ends if end != named))
    roles |= {"eos": None, **dict(zip(ENDS, ends, strict=False))}
    return {f"{PREFIX}{role}_token_id": index for role, index in roles.items() if index is not None}


def _edges(tokenizer: tokenizers.Tokenizer, ids: Metadata) -> Metadata:
    """Whether a text gets a token before it, and one behind."""
    marks = Tokenizer(tokenizer).encode("")
    has_bos = marks[:1] == [ids.get(f"{PREFIX}bos_token_id")]
    has_eos = marks[has_bos:] == [ids.get(f"{PREFIX}eos_token_id")]
    return _named({"add_bos_token": has_bos, "add_eos_token": has_eos})


def _lost_ends(checkpoint: Checkpoint) -> list[str]:
    count = len(checkpoint.config.eos_ids)
    if count <= len(ENDS):
        return []
    return [f"of the model's {count} end tokens, GGUF has names for {len(ENDS)}: {', '.join(ENDS)}"]


def _template(checkpoint: Checkpoint, fields: Metadata) -> tuple[Metadata, list[str]]:
    """The chat template, and what it would be told otherwise than now."""
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
    return {TEMPLATE: template.source}, changed
