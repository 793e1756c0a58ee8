"""The model: one page for every member of the Llama family, on every backend.

Touvron et al., "LLaMA", 2023, and what its family added: grouped-query heads, biases (Qwen2),
norms on queries and keys (Qwen3), sliding windows (Mistral), scaled RoPE (Llama 3.1). Weights and
config say which of these a model has; the forward pass is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from .batch import BatchType
from .config import ModelConfig
from .kv_cache import KVCache
from .layer import Array, Weight, Weights
from .operators import Operators


@dataclass(frozen=True)
class Llama(Generic[Array, Weight, BatchType]):
    config: ModelConfig
    weights: Weights[Array, Weight]
    ops: Operators[Array, Weight, BatchType]

    def forward(self, batch: BatchType, cache: KVCache[Array]) -> Array:
        """Return the logits of the rows that the batch asks for, [R, V]; keys and values of all
        its tokens go to the cache."""
        ops, weights = self.ops, self.weights
        x = ops.embed(weights.embedding, batch.tokens)  # [T, D]
        cos_sin = ops.gather(weights.rope_table, batch.positions)  # [T, 2E]
        for layer, layer_cache in zip(weights.layers, cache.layers, strict=True):
            q = ops.project_qkv(x, layer.attention, cos_sin, layer_cache, batch)  # [T, H, E]
            attn_out = ops.attention(q, layer_cache, batch)  # [T, H E]
            x = ops.linear(attn_out, layer.attention.output, residual=x)  # [T, D]
            x = ops.feed_forward(x, layer.mlp)  # [T, D]
        return ops.logits(ops.gather(x, batch.logit_rows), weights.norm, weights.head)


AnyLlama: TypeAlias = Llama[Any, Any, Any]
