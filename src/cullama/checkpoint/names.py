"""Which tensors a model must have: their names in Hugging Face and in GGUF, and their shapes.

Inside cullama tensors carry Hugging Face's names; GGUF's are translated here. Everything wrong with
a file's tensors is reported at once. No tensor's values are read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import ModelFileError, UnsupportedModelError
from ..model.config import ModelConfig
from .extras import foreign_weights, is_harmless, is_part_of_model

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

_GGUF_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_STEM = {ours: gguf for gguf, ours in (_GGUF_WHOLE | _GGUF_LAYER).items()}
_GGUF_NAME = re.compile(r"(?:blk\.(?P<layer>0|[1-9][0-9]*)\.)?(?P<stem>\w+)\.(?P<kind>weight|bias)")

MAX_LISTED = 60  # problems in one message
MAX_NAMED = 5  # tensors in one warning

_WITHIN = ("model.layers.", "model.embed_tokens.", "lm_head.", "blk.")

LOG = logging.getLogger("cullama")


def huggingface_name(gguf_name: str) -> str:
    """Return `model.layers.3.self_attn.q_proj.weight` for `blk.3.attn_q.weight`.

    Names that are not known are returned as they are.
    """
    match = _GGUF_NAME.fullmatch(gguf_name)
    if match is None:
        return gguf_name
    layer, stem, kind = match["layer"], match["stem"], match["kind"]
    if layer is None and stem in _GGUF_WHOLE:
        return f"{_GGUF_WHOLE[stem]}.{kind}"
    if layer is not None and stem in _GGUF_LAYER:
        return f"model.layers.{int(layer)}.{_GGUF_LAYER[stem]}.{kind}"
    return gguf_name


def gguf_name(name: str) -> str:
    """Return `blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_GGUF_STEM[stem]}.{kind}"
    layer, _, stem = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_GGUF_STEM[stem]}.{kind}"


def is_query_or_key(name: str) -> bool:
    return ".q_proj." in name or ".k_proj." in name


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of one layer's tensors, without the prefix `model.layers.N.`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    matrices = {
        "self_attn.q_proj": (queries, hidden, config.qkv_bias),
        "self_attn.k_proj": (keys, hidden, config.qkv_bias),
        "self_attn.v_proj": (keys, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, queries, config.output_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns, has_bias) in matrices.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if has_bias:
            shapes[f"{name}.bias"] = (rows,)
    shapes["input_layernorm.weight"] = shapes["post_attention_layernorm.weight"] = (hidden,)
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of all tensors; a tied model has no output matrix of its own."""
    table = (config.vocab_size, config.hidden_size)
    shapes = {EMBEDDING: table, NORM: (config.hidden_size,)}
    if not config.tied:
        shapes[HEAD] = table
    layer = layer_shapes(config)
    for index in range(config.layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def select_tensors(
    path: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Return the name in `found`, shapes by name, of each tensor that the model needs.

    Tensors that it does not need are passed over: known tables silently, others with a warning.

    Raises:
        ModelFileError: names all tensors that are missing or misshaped, and all that the model
            would need if its config were another.
        UnsupportedModelError: the names are those of weights that cullama does not read.
    """
    chosen = {name: name for name in expected_shapes(config)}
    if config.tied and EMBEDDING not in found:
        chosen[EMBEDDING] = HEAD  # some files store the tied matrix under the output's name only
    shapes = {chosen[name]: shape for name, shape in expected_shapes(config).items()}
    tied = {EMBEDDING, HEAD} if config.tied else set()
    extra = [name for name in found if name not in shapes and name not in tied]
    extra = [name for name in extra if not is_harmless(name)]
    misfits = _misfits(shapes, found)
    _refuse_foreign(path, extra, has_misfits=bool(misfits))
    parts = [name for name in extra if is_part_of_model(name, config.layers)]
    misfits += [f"unexpected {_short_name(name)}" for name in parts]
    if misfits:
        raise ModelFileError(_listed(path, misfits) + _hint(misfits, parts))
    rest = [name for name in extra if name not in set(parts)]
    if rest:
        LOG.warning("%s", _passed_over(path, rest))
    return chosen


def _misfits(
    shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Describe the tensors that are missing, then those of a wrong shape."""
    missing = [
        f"missing {_short_name(name)} {list(shape)}"
        for name, shape in shapes.items()
        if name not in found
    ]
    return missing + [
        f"{_short_name(name)} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name] != shape
    ]


def _refuse_foreign(path: Path, extra: list[str], has_misfits: bool) -> None:
    """Refuse weights of a kind that cullama does not read, by that kind's name.

    Where nothing is missing, only names within the language model count: parts of others that
    come with it may look like anything.
    """
    names = extra if has_misfits else [name for name in extra if name.startswith(_WITHIN)]
    foreign = foreign_weights(names)
    if foreign is not None:
        name, what, remedy = foreign
        raise UnsupportedModelError(f"{path}: tensor {_short_name(name)} is of {what}; {remedy}")


def _listed(path: Path, misfits: list[str]) -> str:
    verb = "tensor does not fit" if len(misfits) == 1 else "tensors do not fit"
    more = f"; and {len(misfits) - MAX_LISTED} more" if len(misfits) > MAX_LISTED else ""
    return (
        f"{path}: {len(misfits)} {verb} the names and shapes expected by the config: "
        f"{'; '.join(misfits[:MAX_LISTED])}{more}"
    )


def _hint(misfits: list[str], parts: list[str]) -> str:
    """Say what to do where only the output matrix, or only biases, do not fit."""
    if len(misfits) == 1 and not parts and misfits[0].startswith(f"missing {HEAD!r}"):
        return (
            "; models for embeddings or classification have none: take one that predicts text, or "
            "set tie_word_embeddings in config.json where the embedding is the output matrix"
        )
    if len(misfits) == len(parts) and all(name.endswith(".bias") for name in parts):
        return "; where the model has biases, config.json says so: attention_bias, mlp_bias"
    return ""


def _passed_over(path: Path, names: list[str]) -> str:
    shown = ", ".join(map(_short_name, sorted(names)[:MAX_NAMED])) + ", …" * (
        len(names) > MAX_NAMED
    )
    count = f"{len(names)} tensors that the model does not need are"
    if len(names) == 1:
        count = "a tensor that the model does not need is"
    return f"{path}: {count} passed over: {shown}"


def _short_name(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:97]}...")
