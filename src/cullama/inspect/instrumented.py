"""Runs a model with operators that show each result to an observer, whatever the backend.

Each result is downloaded and handed over with its place in the model; where the observer returns
other numbers, the model continues with those. In detail, the composite operators are spelled out
in smaller ones, by their default bodies; a backend's own versions of them are then not run. The
contents of the KV cache are not shown: a wrong key or value appears in the attention's result.

Models are not instrumented unless asked: elsewhere they hold the backend itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..files.tensor import HostArray
from ..model.batch import BatchType
from ..model.layer import Array, Weight
from ..model.operators import COMPOSITE_OPERATORS, AnyOperators, Operators
from .place import Place

if TYPE_CHECKING:
    from ..engine.model_access import ModelAccess
    from ..files.tensor import StoredTensor
    from ..model.batch import Batch
    from ..model.config import ModelConfig
    from ..model.kv_cache import KVCache, LayerCache
    from ..model.layer import Attention, Linear, Mlp, Norm, Weights
    from .passes import PromptPass

# place, position of the first row, the prompt's rows → rows to continue with, or None.
Observer: TypeAlias = Callable[[Place, int, HostArray], "HostArray | None"]


class InstrumentedOperators(Operators[Array, Weight, BatchType]):
    """A backend's operators, each call that a model makes followed by a call of the observer."""

    def __init__(
        self,
        ops: Operators[Array, Weight, BatchType],
        weights: Weights[Array, Weight],
        observer: Observer,
        is_detailed: bool,
    ) -> None:
        self.description, self.dtype_name = ops.description, ops.dtype_name
        self._ops, self._weights, self._observer = ops, weights, observer
        self._is_detailed = is_detailed

    def begin_pass(self, start: int, rows: slice) -> None:
        """Observe these rows from now on, the first of them at position `start`."""
        self._layer: int | None = None
        self._start, self._rows = start, rows

    def _observed(self, operator: str, operand: str, result: Array) -> Array:
        host = self._ops.download(result)
        rows = host[self._rows]
        changed = self._observer(Place(self._layer, operator, operand), self._start, rows)
        if changed is None:
            return result
        changed = changed.reshape(rows.shape).astype(rows.dtype)
        if (changed == rows).all():
            return result
        host = host.copy()
        host[self._rows] = changed
        return self._ops.upload(host)

    # --- observed -----------------------------------------------------------------------------

    def embed(self, table: Weight, tokens: Array) -> Array:
        return self._observed("gather", "embedding", self._ops.embed(table, tokens))

    def gather(self, table: Array, rows: Array) -> Array:
        result = self._ops.gather(table, rows)
        if table is self._weights.rope_table:
            return self._observed("gather", "rope_table", result)
        # After the last layer: rows of x, ours alone, whose logits are asked for.
        self._layer, self._rows = None, slice(None)
        return self._observed("gather", "rows", result)

    def linear(
        self, x: Array, projection: Linear[Array, Weight], residual: Array | None = None
    ) -> Array:
        result = self._ops.linear(x, projection, residual)
        return self._observed("linear", projection.name, result)

    def rms_norm(self, x: Array, norm: Norm[Array]) -> Array:
        return self._observed("rms_norm", norm.name, self._ops.rms_norm(x, norm))

    def silu_mul(self, gate_up: Array) -> Array:
        return self._observed("silu_mul", "", self._ops.silu_mul(gate_up))

    def rope_and_store(
        self,
        qkv: Array,
        attention: Attention[Array, Weight],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: BatchType,
    ) -> Array:
        q = self._ops.rope_and_store(qkv, attention, cos_sin, cache, batch)
        return self._observed("rope_and_store", "", q)

    def attention(self, q: Array, cache: LayerCache[Array], batch: BatchType) -> Array:
        return self._observed("attention", "", self._ops.attention(q, cache, batch))

    # --- composite operators, whole or spelled out -----------------------------------------------

    def project_qkv(
        self,
        x: Array,
        attention: Attention[Array, Weight],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: BatchType,
    ) -> Array:
        self._layer = attention.layer  # the first call of each layer
        if self._is_detailed:
            return super().project_qkv(x, attention, cos_sin, cache, batch)
        q = self._ops.project_qkv(x, attention, cos_sin, cache, batch)
        return self._observed("project_qkv", "", q)

    def feed_forward(self, x: Array, mlp: Mlp[Array, Weight]) -> Array:
        if self._is_detailed:
            return super().feed_forward(x, mlp)
        return self._observed("feed_forward", "", self._ops.feed_forward(x, mlp))

    def logits(self, x: Array, norm: Norm[Array], head: Linear[Array, Weight]) -> Array:
        if self._is_detailed:
            return super().logits(x, norm, head)
        return self._observed("logits", "", self._ops.logits(x, norm, head))

    # --- the backend's own, not observed -------------------------------------------------------

    def upload(self, host: HostArray) -> Array:
        return self._ops.upload(host)

    def upload_batch(self, batch: Batch[HostArray]) -> BatchType:
        return self._ops.upload_batch(batch)

    def download(self, array: Array) -> HostArray:
        return self._ops.download(array)

    def weight(self, parts: Sequence[StoredTensor]) -> Weight:
        return self._ops.weight(parts)

    def vector(self, parts: Sequence[StoredTensor]) -> Array:
        return self._ops.vector(parts)

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[Array]:
        return self._ops.cache(config, tokens)

    def cache_bytes_per_token(self, config: ModelConfig) -> int:
        return self._ops.cache_bytes_per_token(config)

    @property
    def cache_budget(self) -> tuple[int, int]:
        return self._ops.cache_budget

    def stored_keys(self, cache: LayerCache[Array], tokens: int) -> HostArray:
        return self._ops.stored_keys(cache, tokens)

    def copy_blocks(self, cache: KVCache[Array], copies: Sequence[tuple[int, int]]) -> None:
        self._ops.copy_blocks(cache, copies)

    def add(self, x: Array, y: Array) -> Array:
        return self._ops.add(x, y)

    def mul(self, x: Array, y: Array) -> Array:
        return self._ops.mul(x, y)

    def matmul(self, x: Array, y: Array) -> Array:
        return self._ops.matmul(x, y)


class InstrumentedModel:
    """A model over an empty KV cache of its own, with every result shown to `observer`.

    Its passes are not captured in a graph: results must reach the host between two operators.
    """

    def __init__(
        self,
        access: ModelAccess[Any],
        cache_blocks: int,
        observer: Observer,
        is_detailed: bool = False,
    ) -> None:
        model, ops = access.model, access.ops
        self.cache: KVCache[Any] = ops.cache(model.config, cache_blocks * access.block_size)
        self._ops = InstrumentedOperators(ops, model.weights, observer, is_detailed)
        self._model = replace(model, ops=self._ops)

    def run(self, step: PromptPass) -> None:
        self._ops.begin_pass(step.start, step.rows)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN is reported, not warned of
            self._model.forward(self._ops.upload_batch(step.batch), self.cache)


def run_instrumented(
    access: ModelAccess[Any],
    passes: Iterable[PromptPass],
    cache_blocks: int,
    observer: Observer,
    is_detailed: bool = False,
) -> None:
    """Run passes over an empty KV cache of their own, with every result shown to `observer`."""
    model = InstrumentedModel(access, cache_blocks, observer, is_detailed)
    for step in passes:
        model.run(step)


def overridden_composites(ops: AnyOperators) -> tuple[str, ...]:
    """Return the composite operators of which a backend has a version of its own."""
    return tuple(
        name
        for name in COMPOSITE_OPERATORS
        if getattr(type(ops), name) is not getattr(Operators, name)
    )
