"""Runs a model with operators that show each result to an observer, whatever the backend.

Each result is downloaded and handed over with its place in the model; where the observer returns
other numbers, the model continues with those. In detail, the composite operators are spelled out
in smaller ones, by their default bodies; a backend's own versions of them are then not run. The
contents of the KV cache are not shown: a wrong key or value appears in the attention's result.

Models are not instrumented unless asked: elsewhere they hold the backend itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import numpy as np

from ..files.tensor import HostArray
from ..model.operators import Operators
from .place import TABLES, Place

if TYPE_CHECKING:
    from ..engine.insider import Insider
    from ..model.batch import Batch
    from ..model.kv_cache import LayerCache
    from ..model.layer import Layer, Weights
    from .passes import PromptPass

Array = TypeVar("Array")

COMPOSITE_OPERATORS = ("project_qkv", "feed_forward", "logits")

# place, position of the first row, the prompt's rows → rows to continue with, or None.
Observer: TypeAlias = Callable[[Place, int, HostArray], "HostArray | None"]


class InstrumentedOperators(Generic[Array]):
    """The operators that a model calls, each followed by a call of the observer."""

    def __init__(
        self,
        ops: Operators[Array],
        weights: Weights[Array],
        observer: Observer,
        is_detailed: bool,
    ) -> None:
        self._ops, self._weights, self._observer = ops, weights, observer
        self._is_detailed = is_detailed

    @property
    def operators(self) -> Operators[Array]:
        return cast("Operators[Array]", self)

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

    def _operand(self, weight: Array) -> str:
        """Return the name of one of the current layer's weights, or of the head's."""
        if self._layer is None:
            return "head" if weight is self._weights.head else "norm"
        layer = vars(self._weights.layers[self._layer])
        return next(name for name, array in layer.items() if array is weight)

    # --- operators -----------------------------------------------------------------------------

    def gather(self, table: Array, rows: Array) -> Array:
        result = self._ops.gather(table, rows)
        names = [name for name in TABLES if getattr(self._weights, name) is table]
        if not names:  # after the last layer: rows of x, ours alone, whose logits are wanted
            self._layer, self._rows = None, slice(None)
        return self._observed("gather", names[0] if names else "rows", result)

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        result = self._ops.linear(x, weight, bias, residual)
        return self._observed("linear", self._operand(weight), result)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return self._observed("rms_norm", self._operand(weight), self._ops.rms_norm(x, weight, eps))

    def silu_mul(self, gate_up: Array) -> Array:
        return self._observed("silu_mul", "", self._ops.silu_mul(gate_up))

    def rope_and_store(
        self,
        qkv: Array,
        layer: Layer[Array],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: Batch[Array],
        eps: float,
    ) -> Array:
        q = self._ops.rope_and_store(qkv, layer, cos_sin, cache, batch, eps)
        return self._observed("rope_and_store", "", q)

    def attention(self, q: Array, cache: LayerCache[Array], batch: Batch[Array]) -> Array:
        return self._observed("attention", "", self._ops.attention(q, cache, batch))

    # --- composite operators, whole or spelled out -----------------------------------------------

    def project_qkv(
        self,
        x: Array,
        layer: Layer[Array],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: Batch[Array],
        eps: float,
    ) -> Array:
        """The first call of each layer: tells which one it is."""
        self._layer = next(i for i, each in enumerate(self._weights.layers) if each is layer)
        if self._is_detailed:
            return Operators.project_qkv(self.operators, x, layer, cos_sin, cache, batch, eps)
        q = self._ops.project_qkv(x, layer, cos_sin, cache, batch, eps)
        return self._observed("project_qkv", "", q)

    def feed_forward(self, x: Array, layer: Layer[Array], eps: float) -> Array:
        if self._is_detailed:
            return Operators.feed_forward(self.operators, x, layer, eps)
        return self._observed("feed_forward", "", self._ops.feed_forward(x, layer, eps))

    def logits(self, x: Array, norm: Array, head: Array, eps: float) -> Array:
        if self._is_detailed:
            return Operators.logits(self.operators, x, norm, head, eps)
        return self._observed("logits", "", self._ops.logits(x, norm, head, eps))


def run_instrumented(
    insider: Insider[Any],
    passes: Iterable[PromptPass],
    cache_blocks: int,
    observer: Observer,
    is_detailed: bool = False,
) -> None:
    """Run passes over an empty KV cache of their own, with every result shown to `observer`.

    They are not captured in a graph: results must reach the host between two operators.
    """
    model, ops = insider.model, insider.ops
    cache = ops.cache(model.config, cache_blocks * insider.block_size)
    instrumented = InstrumentedOperators(ops, model.weights, observer, is_detailed)
    model = replace(model, ops=instrumented.operators)
    for step in passes:
        instrumented.begin_pass(step.start, step.rows)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN is reported, not warned of
            model.forward(ops.upload_batch(step.batch), cache)


def overridden_composites(ops: Operators[Any]) -> tuple[str, ...]:
    """Return the composite operators of which a backend has a version of its own."""
    return tuple(
        name
        for name in COMPOSITE_OPERATORS
        if getattr(type(ops), name) is not getattr(Operators, name)
    )
