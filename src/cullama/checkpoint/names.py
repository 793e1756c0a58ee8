"""Which tensors a model must have: their names in Hugging Face and in GGUF, and their shapes.

Inside cullama tensors carry Hugging Face's names; GGUF's are translated here. Everything wrong with
a file's tensors is reported at once. No tensor's values are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path

from ..errors import ModelFileError
from ..files.tensor import StoredTensor
from ..model.config import ModelConfig

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

# Tables that old exporters stored; cullama computes them from the config.
_RECOMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rope_freqs\.weight")

MAX_LISTED = 60  # problems in one message


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


def checked_tensors(
    path: Path, config: ModelConfig, found: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Return the tensors that the model needs out of those `found` in a file.

    Raises:
        ModelFileError: names all missing, unexpected and misshaped tensors.
    """
    tensors = {name: t for name, t in found.items() if not _RECOMPUTED.fullmatch(name)}
    if config.tied:
        # Some files store the tied matrix under both names, some under the output's only.
        head = tensors.pop(HEAD, None)
        if head is not None:
            tensors.setdefault(EMBEDDING, head)
    shapes = expected_shapes(config)
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    misshaped = [name for name, t in tensors.items() if name in shapes and t.shape != shapes[name]]
    problems = chain(
        (f"missing {_short_name(name)} {list(shapes[name])}" for name in missing),
        (f"unexpected {_short_name(name)}" for name in unexpected),
        (
            f"{_short_name(name)} has shape {list(tensors[name].shape)}, "
            f"expected {list(shapes[name])}"
            for name in misshaped
        ),
    )
    count = len(missing) + len(unexpected) + len(misshaped)
    if count:
        verb = "tensor does not fit" if count == 1 else "tensors do not fit"
        listed = "; ".join(islice(problems, MAX_LISTED))
        more = f"; and {count - MAX_LISTED} more" if count > MAX_LISTED else ""
        raise ModelFileError(
            f"{path}: {count} {verb} the names and shapes expected by the config: {listed}{more}"
        )
    return tensors


def _short_name(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:97]}...")
