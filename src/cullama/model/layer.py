"""The operands of a Llama's operators: its weights, named, fused, and grouped by who uses them.

`Weight` is a matrix as a backend lays it out, opaque to everything above the backend: float32
tiles, packed 4-bit blocks or a device's memory. This file does not load weights
(`checkpoint/weights.py` does) and computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Array = TypeVar("Array")
Weight = TypeVar("Weight", bound=Sized)


@dataclass(frozen=True)
class Norm(Generic[Array]):
    """The operands of an RMS norm."""

    weight: Array  # [D]
    eps: float
    name: str = ""  # of its place in a layer or in the model, for observers


@dataclass(frozen=True)
class Linear(Generic[Array, Weight]):
    """The operands of a linear projection: x · weightᵀ (+ bias)."""

    weight: Weight  # [O, I]
    bias: Array | None = None  # [O]
    name: str = ""  # as a norm's


@dataclass(frozen=True)
class Attention(Generic[Array, Weight]):
    """The operands of a layer's attention."""

    norm: Norm[Array]  # [D]
    qkv: Linear[Array, Weight]  # [(H + 2K) E, D]
    q_norm: Norm[Array] | None  # [E], by head
    k_norm: Norm[Array] | None  # [E]
    output: Linear[Array, Weight]  # [D, H E]
    layer: int = 0  # its number, from 0


@dataclass(frozen=True)
class Mlp(Generic[Array, Weight]):
    """The operands of a layer's feed-forward network."""

    norm: Norm[Array]  # [D]
    gate_up: Linear[Array, Weight]  # [2F, D]
    down: Linear[Array, Weight]  # [D, F]
    layer: int = 0


@dataclass(frozen=True)
class Layer(Generic[Array, Weight]):
    attention: Attention[Array, Weight]
    mlp: Mlp[Array, Weight]


@dataclass(frozen=True)
class Weights(Generic[Array, Weight]):
    embedding: Weight  # [V, D]
    layers: tuple[Layer[Array, Weight], ...]
    norm: Norm[Array]  # [D]
    head: Linear[Array, Weight]  # [V, D]; its weight is the embedding where the model is tied
    rope_table: Array  # [P, 2E], as `Rope.table` has it

    @property
    def bytes_read_per_token(self) -> int:
        """Bytes of weights read to decode one token: all matrices but the embedding."""
        matrices = [self.head]
        for layer in self.layers:
            matrices += [layer.attention.qkv, layer.attention.output]
            matrices += [layer.mlp.gate_up, layer.mlp.down]
        return sum(matrix.weight.nbytes for matrix in matrices)
