"""The weights of a Llama as its forward pass wants them: named, fused, on the device.

It does not know how a backend lays a matrix out, nor where checkpoints keep one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Array = TypeVar("Array")


@dataclass(frozen=True)
class Layer(Generic[Array]):
    attention_norm: Array  # [D]
    qkv: Array  # [(H + 2K) E, D]
    qkv_bias: Array | None  # [(H + 2K) E]
    q_norm: Array | None  # [E]
    k_norm: Array | None  # [E]
    output: Array  # [D, H E]
    output_bias: Array | None  # [D]
    mlp_norm: Array  # [D]
    gate_up: Array  # [2F, D]
    gate_up_bias: Array | None  # [2F]
    down: Array  # [D, F]
    down_bias: Array | None  # [D]


@dataclass(frozen=True)
class Weights(Generic[Array]):
    embedding: Array  # [V, D]
    layers: tuple[Layer[Array], ...]
    norm: Array  # [D]
    head: Array  # [V, D]; the embedding itself where the model is tied
    rope_table: Array  # [P, 2E], as `Rope.table` has them

    @property
    def bytes_per_token(self) -> int:
        """What is read of them to write a token: all matrices but the embedding."""
        matrices: list[Any] = [self.head]
        for layer in self.layers:
            matrices += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return sum(matrix.nbytes for matrix in matrices)
