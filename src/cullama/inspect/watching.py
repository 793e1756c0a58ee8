"""Operators that show what every call of them gave: any backend's, wrapped.

The model speaks to them as to the backend itself. Each result is downloaded and shown to a
`watch`, with the place it came from; where the watch answers with other numbers, the model goes
on with those. Detailed, the larger words are spelled out of the smaller ones, as their default
bodies have it; a backend's own version of them is then not run. A model that nobody watches has
the backend itself, and pays nothing.

What a backend keeps in its cache is its own affair and not looked at: a wrong key or value shows
in the attention over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np

from ..files.tensor import HostArray
from ..model.operators import Operators

if TYPE_CHECKING:
    from ..model.batch import Batch
    from ..model.kv_cache import KVCache, LayerCache
    from ..model.layer import Layer, Weights
    from ..model.llama import Llama

Array = TypeVar("Array")

COMPOSITE_OPERATORS = ("project_qkv", "feed_forward", "logits")
TABLES = ("embedding", "rope_table")


@dataclass(frozen=True)
class Place:
    """Where in the model a call stands."""

    layer: int | None  # None: before the first, or behind the last
    operator: str
    operand: str = ""  # the weight or table it was called with, where there are several

    @property
    def section(self) -> str:
        if self.layer is not None:
            return f"layer {self.layer}"
        return "embedding" if self.operand in TABLES else "head"

    @property
    def name(self) -> str:
        """The operator, and which of several calls within the section."""
        return f"{self.operator} {self.operand}".rstrip()

    def __str__(self) -> str:
        return f"{self.section} · {self.name}"


class Pass(NamedTuple):
    batch: Batch[HostArray]
    start: int  # position of our first token
    rows: slice  # our tokens in the batch


# The place, the position of the first row, the rows of our sequence → rows to go on with, or None.
Watch: TypeAlias = Callable[[Place, int, HostArray], "HostArray | None"]


class Names(Generic[Array]):
    """Which array of a model is which, by identity: a backend's arrays cannot be looked into."""

    def __init__(self, weights: Weights[Array], cache: KVCache[Array]) -> None:
        self._kept_alive = (weights, cache)  # or an id might be given away again
        self.tables = {id(getattr(weights, name)): name for name in TABLES}
        self.layers = {id(layer): i for i, layer in enumerate(weights.layers)}
        self.layers |= {id(layer): i for i, layer in enumerate(cache.layers)}
        self.weights = {
            id(array): name for layer in weights.layers for name, array in vars(layer).items()
        }
        self.weights |= {id(weights.norm): "norm", id(weights.head): "head"}


class WatchedOperators(Generic[Array]):
    """Speaks the words that the model does; all others are the backend's own."""

    def __init__(
        self, ops: Operators[Array], names: Names[Array], watch: Watch, is_detailed: bool
    ) -> None:
        self._ops, self._names, self._watch = ops, names, watch
        self._is_detailed = is_detailed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    @property
    def operators(self) -> Operators[Array]:
        return cast("Operators[Array]", self)

    def begin(self, start: int, rows: slice) -> None:
        """A pass in which our sequence has these rows, the first of them at position `start`."""
        self._layer: int | None = None
        self._start, self._rows = start, rows

    def _shown(self, operator: str, operand: str, result: Array) -> Array:
        host = self._ops.download(result)
        ours = host[self._rows]
        other = self._watch(Place(self._layer, operator, operand), self._start, ours)
        if other is None:
            return result
        other = other.reshape(ours.shape).astype(ours.dtype)
        if (other == ours).all():
            return result
        host = host.copy()
        host[self._rows] = other
        return self._ops.upload(host)

    # --- the model's words -------------------------------------------------------------------

    def gather(self, table: Array, rows: Array) -> Array:
        result = self._ops.gather(table, rows)
        name = self._names.tables.get(id(table))
        if name is None:  # from here on there are only the rows whose logits are wanted: ours
            self._layer, self._rows = None, slice(None)
        return self._shown("gather", name or "rows", result)

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        result = self._ops.linear(x, weight, bias, residual)
        return self._shown("linear", self._names.weights[id(weight)], result)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        result = self._ops.rms_norm(x, weight, eps)
        return self._shown("rms_norm", self._names.weights[id(weight)], result)

    def silu_mul(self, gate_up: Array) -> Array:
        return self._shown("silu_mul", "", self._ops.silu_mul(gate_up))

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
        return self._shown("rope_and_store", "", q)

    def attention(self, q: Array, cache: LayerCache[Array], batch: Batch[Array]) -> Array:
        self._layer = self._names.layers[id(cache)]
        return self._shown("attention", "", self._ops.attention(q, cache, batch))

    # --- the larger ones, whole or spelled out -------------------------------------------------

    def project_qkv(
        self,
        x: Array,
        layer: Layer[Array],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: Batch[Array],
        eps: float,
    ) -> Array:
        self._layer = self._names.layers[id(layer)]
        if self._is_detailed:
            return Operators.project_qkv(self.operators, x, layer, cos_sin, cache, batch, eps)
        q = self._ops.project_qkv(x, layer, cos_sin, cache, batch, eps)
        return self._shown("project_qkv", "", q)

    def feed_forward(self, x: Array, layer: Layer[Array], eps: float) -> Array:
        if self._is_detailed:
            return Operators.feed_forward(self.operators, x, layer, eps)
        return self._shown("feed_forward", "", self._ops.feed_forward(x, layer, eps))

    def logits(self, x: Array, norm: Array, head: Array, eps: float) -> Array:
        if self._is_detailed:
            return Operators.logits(self.operators, x, norm, head, eps)
        return self._shown("logits", "", self._ops.logits(x, norm, head, eps))


def run_watched(
    model: Llama[Any], passes: Iterable[Pass], cache_tokens: int, watch: Watch, is_detailed: bool
) -> None:
    """The passes over an empty cache for so many tokens, with all that they give shown.

    They are run as they are, not captured in a graph: what lies between two operators must come
    down to the host.
    """
    cache = model.ops.cache(model.config, cache_tokens)
    ops = WatchedOperators(model.ops, Names(model.weights, cache), watch, is_detailed)
    watched = replace(model, ops=ops.operators)
    for step in passes:
        ops.begin(step.start, step.rows)
        # What is no number is reported as such, not warned of.
        with np.errstate(invalid="ignore", over="ignore"):
            watched.forward(model.ops.upload_batch(step.batch), cache)


def own_words(ops: Operators[Any]) -> tuple[str, ...]:
    """The larger words of which a backend has a version of its own."""
    return tuple(
        name
        for name in COMPOSITE_OPERATORS
        if getattr(type(ops), name) is not getattr(Operators, name)
    )
