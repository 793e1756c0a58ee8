"""Writes a model's shape as GGUF metadata, the reverse of `ModelConfig.from_gguf`.

It refuses models that GGUF, or llama.cpp, cannot express. It writes neither the tensors
nor the tokenizer.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from ..model.config import ModelConfig
from ..model.families import Part
from ..model.rope import LinearScaling, Rope, YarnScaling


def model_fields(config: ModelConfig) -> dict[str, Any]:
    """Return the metadata of a model's shape; integers are written as uint32, others float32."""
    values: dict[str, Any] = {
        "block_count": config.layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
    }
    if config.windows[0]:
        values["attention.sliding_window"] = config.windows[0]
    values |= _rope_fields(config.rope)
    return {f"{config.family.written_name}.{name}": value for name, value in values.items()}


def _rope_fields(rope: Rope) -> dict[str, Any]:
    values: dict[str, Any] = {}
    implied = 1.0  # the attention factor that llama.cpp computes from the scaling
    match rope.scaling:
        case LinearScaling(factor):
            values = {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case YarnScaling(factor, original, fast, slow) as yarn:
            values = {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": factor,
                "rope.scaling.original_context_length": original,
                "rope.scaling.yarn_beta_fast": fast,
                "rope.scaling.yarn_beta_slow": slow,
            }
            implied = yarn.attention_factor
    if not math.isclose(rope.attention_factor, implied):
        values["rope.scaling.attn_factor"] = rope.attention_factor / implied
    return values


def check_expressible(path: Path, config: ModelConfig) -> None:
    """Check that a GGUF file of this model can exist and llama.cpp reads it.

    Raises:
        UnsupportedModelError: names the part of the model that cannot be written.
    """
    what = _inexpressible(config)
    if what is not None:
        raise UnsupportedModelError(
            f"{path}: has {what}, which llama.cpp cannot read from GGUF; run the model as it is"
        )


def _inexpressible(config: ModelConfig) -> str | None:
    """Return the first part that llama.cpp does not read; found by loading such files with it."""
    family, windows = config.family, sorted(set(config.windows))
    if len(windows) > 1:
        return f"layers with windows of {windows[0]} and of {windows[1]} tokens"
    match config.rope.scaling:
        case YarnScaling(is_truncated=False):
            return "a yarn scaling whose ramp begins and ends between two pairs"
    parts: list[tuple[bool, Part, str]] = [
        (config.qk_norm, "qk_norm", "norms of queries and keys"),
        (config.output_bias, "output_bias", "biases behind attention or feed-forward"),
        (config.mlp_bias, "mlp_bias", "biases behind attention or feed-forward"),
        (
            config.rope.has_divisors_in_gguf,
            "rope_divisors",
            "rotary embedding scaled frequency by frequency",
        ),
    ]
    for is_there, part, what in parts:
        if is_there and part not in family.llama_cpp_reads:
            return f"{what} in a {family.written_name}"
    return None


def notes(config: ModelConfig) -> list[str]:
    """Return what the file holds and llama.cpp ignores."""
    window = config.windows[0]
    if not window or window >= config.context_length:
        return []
    return [f"llama.cpp ignores this model's window: beyond {window} tokens it differs"]
