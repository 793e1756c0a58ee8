"""The model: one page for every member of the Llama family, on every backend.

Touvron et al., "LLaMA", 2023, and what its family added: grouped-query heads, biases (Qwen2),
norms on queries and keys (Qwen3), sliding windows (Mistral), stretched rotations (Llama 3.1).
Which of these a model has shows in its weights and config; the road is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from .batch import Batch
from .config import ModelConfig
from .kv_cache import KVCache
from .layer import Weights
from .operators import Operators

Array = TypeVar("Array")


@dataclass(frozen=True)
class Llama(Generic[Array]):
    config: ModelConfig
    weights: Weights[Array]
    ops: Operators[Array]

    def forward(self, batch: Batch[Array], cache: KVCache[Array]) -> Array:
        """Logits of the rows the batch asks for, [R, V]; keys and values of all go to the cache."""
        ops, weights, eps = self.ops, self.weights, self.config.norm_eps
        x = ops.gather(weights.embedding, batch.tokens)  # [T, D]
        cos_sin = ops.gather(weights.rope_table, batch.positions)  # [T, 2E]
        for layer, layer_cache in zip(weights.layers, cache.layers, strict=True):
            q = ops.project_qkv(x, layer, cos_sin, layer_cache, batch, eps)  # [T, H, E]
            attn_out = ops.attention(q, layer_cache, batch)  # [T, H E]
            x = ops.linear(attn_out, layer.output, layer.output_bias, residual=x)  # [T, D]
            x = ops.feed_forward(x, layer, eps)  # [T, D]
        return ops.logits(ops.gather(x, batch.logit_rows), weights.norm, weights.head, eps)
