"""Loads the weights of a Llama: checkpoint tensors become named, fused weights on the device.

Query, key and value go into one matrix, gate and up into one. It does not know how a backend lays
a matrix out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ..model.config import ModelConfig
from ..model.layer import Layer, Weights
from ..model.operators import Operators
from .checkpoint import Checkpoint
from .names import EMBEDDING, HEAD, NORM

Array = TypeVar("Array")
Progress = Callable[[int, int], None]  # (elements done, elements in all)


def load_weights(
    checkpoint: Checkpoint,
    ops: Operators[Array],
    positions: int,
    progress: Progress = lambda done, total: None,
) -> Weights[Array]:
    """Every tensor uploaded once; `positions` (P) is the longest context to be served."""
    loader = _Loader(checkpoint, ops, progress)
    with ops.loading(checkpoint.conversion_key, checkpoint.tensors.values()):
        return loader.weights(positions)


class _Loader(Generic[Array]):
    """Carries the checkpoint and the count of what is done through the layers."""

    def __init__(self, checkpoint: Checkpoint, ops: Operators[Array], progress: Progress) -> None:
        self.tensors, self.config, self.ops = checkpoint.tensors, checkpoint.config, ops
        self.progress = progress
        self.done, self.total = 0, sum(tensor.size for tensor in self.tensors.values())

    def weights(self, positions: int) -> Weights[Array]:
        config = self.config
        embedding = self._matrix(EMBEDDING)
        return Weights(
            embedding=embedding,
            layers=tuple(self._layer(f"model.layers.{i}.", config) for i in range(config.layers)),
            norm=self._vector(NORM),
            head=embedding if config.tied else self._matrix(HEAD),
            rope_table=self.ops.upload(config.rope.table(config.head_dim, positions)),
        )

    def _layer(self, prefix: str, config: ModelConfig) -> Layer[Array]:
        qkv = [f"{prefix}self_attn.{name}_proj" for name in "qkv"]
        gate_up = [f"{prefix}mlp.{name}_proj" for name in ("gate", "up")]
        output, down = f"{prefix}self_attn.o_proj", f"{prefix}mlp.down_proj"
        norms = [f"{prefix}self_attn.{name}_norm.weight" for name in "qk"]
        return Layer(
            attention_norm=self._vector(f"{prefix}input_layernorm.weight"),
            qkv=self._matrix(*(f"{name}.weight" for name in qkv)),
            qkv_bias=self._bias(config.qkv_bias, qkv),
            q_norm=self._vector(norms[0]) if config.qk_norm else None,
            k_norm=self._vector(norms[1]) if config.qk_norm else None,
            output=self._matrix(f"{output}.weight"),
            output_bias=self._bias(config.output_bias, [output]),
            mlp_norm=self._vector(f"{prefix}post_attention_layernorm.weight"),
            gate_up=self._matrix(*(f"{name}.weight" for name in gate_up)),
            gate_up_bias=self._bias(config.mlp_bias, gate_up),
            down=self._matrix(f"{down}.weight"),
            down_bias=self._bias(config.mlp_bias, [down]),
        )

    def _matrix(self, *names: str) -> Array:
        """Matrices stacked along their rows."""
        parts = [self.tensors[name] for name in names]
        matrix = self.ops.weight(parts)
        self._count(names)
        return matrix

    def _vector(self, *names: str) -> Array:
        vector = self.ops.vector([self.tensors[name] for name in names])
        self._count(names)
        return vector

    def _bias(self, present: bool, names: list[str]) -> Array | None:
        return self._vector(*(f"{name}.bias" for name in names)) if present else None

    def _count(self, names: tuple[str, ...]) -> None:
        self.done += sum(self.tensors[name].size for name in names)
        self.progress(self.done, self.total)
