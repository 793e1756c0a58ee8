"""Writes a model's shape as GGUF metadata, the reverse of `ModelConfig.from_gguf`.

It refuses models that GGUF, or llama.cpp, cannot express. It writes neither the tensors
nor the tokenizer.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from ..model.config import ModelConfig
from ..model.families import Part
from ..model.rope import DivisorScaling, LinearScaling, Llama3Scaling


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
    match config.rope.scaling:
        case LinearScaling(factor):
            values |= {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
    return {f"{config.family.written_name}.{name}": value for name, value in values.items()}


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
    has_divisors = isinstance(config.rope.scaling, DivisorScaling | Llama3Scaling)
    parts: list[tuple[bool, Part, str]] = [
        (config.qk_norm, "qk_norm", "norms of queries and keys"),
        (config.output_bias, "output_bias", "biases behind attention or feed-forward"),
        (config.mlp_bias, "mlp_bias", "biases behind attention or feed-forward"),
        (has_divisors, "rope_divisors", "rotary embedding scaled frequency by frequency"),
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
