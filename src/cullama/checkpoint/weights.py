"""Loads the weights of a Llama: a checkpoint's tensors become the operands of its operators.

Query, key and value go into one matrix, gate and up into one. It does not know how a backend lays
a matrix out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from ..model.backend import Backend
from ..model.batch import BatchType
from ..model.layer import Array, Attention, Layer, Linear, Mlp, Norm, Weight, Weights
from .checkpoint import Checkpoint
from .names import EMBEDDING, HEAD, NORM

Progress = Callable[[int, int], None]  # (elements done, elements in all)


def load_weights(
    checkpoint: Checkpoint,
    backend: Backend[Array, Weight, BatchType],
    positions: int,
    progress: Progress = lambda done, total: None,
) -> Weights[Array, Weight]:
    """Upload every tensor once. `positions` (P) is the longest context to be served."""
    loader = _Loader(checkpoint, backend, progress)
    with backend.loading(checkpoint.conversion_key, checkpoint.tensors.values()):
        return loader.weights(positions)


class _Loader(Generic[Array, Weight, BatchType]):
    """Carries the checkpoint, and the count of elements loaded, through the layers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend[Array, Weight, BatchType],
        progress: Progress,
    ) -> None:
        self.tensors, self.config, self.backend = checkpoint.tensors, checkpoint.config, backend
        self.progress = progress
        self.done, self.total = 0, sum(tensor.size for tensor in self.tensors.values())

    def weights(self, positions: int) -> Weights[Array, Weight]:
        config = self.config
        embedding = self._matrix([EMBEDDING])
        return Weights(
            embedding=embedding,
            layers=tuple(self._layer(number) for number in range(config.layers)),
            norm=self._norm(NORM, "norm"),
            head=Linear(embedding if config.tied else self._matrix([HEAD]), name="head"),
            rope_table=self.backend.upload(config.rope.table(config.head_dim, positions)),
        )

    def _layer(self, number: int) -> Layer[Array, Weight]:
        prefix = f"model.layers.{number}."
        return Layer(
            attention=self._attention(f"{prefix}self_attn.", prefix, number),
            mlp=self._mlp(f"{prefix}mlp.", prefix, number),
        )

    def _attention(self, own: str, prefix: str, layer: int) -> Attention[Array, Weight]:
        config = self.config
        return Attention(
            norm=self._norm(f"{prefix}input_layernorm.weight", "attention_norm"),
            qkv=self._linear([f"{own}{n}_proj" for n in "qkv"], config.qkv_bias, "qkv"),
            q_norm=self._norm(f"{own}q_norm.weight", "q_norm") if config.qk_norm else None,
            k_norm=self._norm(f"{own}k_norm.weight", "k_norm") if config.qk_norm else None,
            output=self._linear([f"{own}o_proj"], config.output_bias, "output"),
            layer=layer,
        )

    def _mlp(self, own: str, prefix: str, layer: int) -> Mlp[Array, Weight]:
        has_bias = self.config.mlp_bias
        return Mlp(
            norm=self._norm(f"{prefix}post_attention_layernorm.weight", "mlp_norm"),
            gate_up=self._linear([f"{own}gate_proj", f"{own}up_proj"], has_bias, "gate_up"),
            down=self._linear([f"{own}down_proj"], has_bias, "down"),
            layer=layer,
        )

    def _linear(self, stems: list[str], has_bias: bool, name: str) -> Linear[Array, Weight]:
        """One projection of several tensors, stacked along their rows."""
        weight = self._matrix([f"{stem}.weight" for stem in stems])
        bias = self._vector([f"{stem}.bias" for stem in stems]) if has_bias else None
        return Linear(weight, bias, name)

    def _norm(self, tensor: str, name: str) -> Norm[Array]:
        return Norm(self._vector([tensor]), self.config.norm_eps, name)

    def _matrix(self, names: list[str]) -> Weight:
        matrix = self.backend.weight([self.tensors[name] for name in names])
        self._count(names)
        return matrix

    def _vector(self, names: list[str]) -> Array:
        vector = self.backend.vector([self.tensors[name] for name in names])
        self._count(names)
        return vector

    def _count(self, names: list[str]) -> None:
        self.done += sum(self.tensors[name].size for name in names)
        self.progress(self.done, self.total)
