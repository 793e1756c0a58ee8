"""The words a Llama is written in, and what they mean.

Two backends speak them: numpy (`cpu/`), whose bodies are the specification, and CUDA. Operators
at the end have bodies of their own here, made of the ones before; a backend may replace those
bodies *for speed only*, and is held to the default by a test. A model never sees a dtype, a
device, a stream or a pointer: only arrays, and these words.

The alphabet, here and everywhere:
    T tokens in the batch   S sequences   R rows wanted   D model width   F hidden width
    H query heads   K key/value heads   E head width   V vocabulary   I, O a matrix's in and out
    P positions in the rotary table
Every sum is taken in float32 and rounded once to the backend's storage type.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import NumericalError, UsageError
from ..sampling.draw import Draw, Drawn
from ..sampling.sampler import sample

if TYPE_CHECKING:
    from ..files.tensor import HostArray, StoredTensor
    from .batch import Batch
    from .config import ModelConfig
    from .kv_cache import KVCache, LayerCache
    from .layer import Layer

Array = TypeVar("Array")
Step = Callable[["Batch[Array]"], Array]


class Operators(Protocol[Array]):
    description: str  # one line: device, storage type, threads
    dtype_name: str  # the type that weights are kept in, for people
    is_asynchronous: bool = False  # whether a pass goes on by itself once it has been launched

    # --- across, and into place --------------------------------------------------------------

    @abstractmethod
    def upload(self, host: HostArray) -> Array:
        """A host array on the device, its type kept."""

    @abstractmethod
    def upload_batch(self, batch: Batch[HostArray]) -> Batch[Array]:
        """One step's integers on the device, in one copy."""

    @abstractmethod
    def download(self, array: Array) -> HostArray:
        """The array on the host; waits until it is computed."""

    @abstractmethod
    def weight(self, parts: Sequence[StoredTensor]) -> Array:
        """Matrices [O₁, I], [O₂, I] … stacked to [O₁ + O₂ …, I], laid out for `linear`."""

    @abstractmethod
    def vector(self, parts: Sequence[StoredTensor]) -> Array:
        """Vectors joined end to end: norm weights and biases."""

    @abstractmethod
    def cache(self, config: ModelConfig, tokens: int) -> KVCache[Array]:
        """An empty KV cache for that many tokens, in blocks of the backend's choice."""

    @abstractmethod
    def cache_bytes(self, config: ModelConfig) -> int:
        """What one token takes in the cache."""

    @property
    @abstractmethod
    def cache_budget(self) -> tuple[int, int]:
        """Bytes that a cache takes at most, with the weights loaded: unless asked, and if asked."""

    @abstractmethod
    def copy_blocks(self, cache: KVCache[Array], copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks of all layers, (from, to) each, one after the other."""

    def close(self) -> None:
        """Return all memory; nothing may be called afterwards but this, which does nothing then."""
        return

    # --- the model's own ---------------------------------------------------------------------

    @abstractmethod
    def gather(self, table: Array, rows: Array) -> Array:
        """Rows of a table: [V, D], [T] → [T, D]."""

    @abstractmethod
    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """x · weightᵀ (+ bias) (+ residual): [T, I], [O, I] → [T, O]."""

    @abstractmethod
    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / √(mean x² + eps) · weight (Zhang & Sennrich, 2019): [T, D] → [T, D]."""

    @abstractmethod
    def silu_mul(self, gate_up: Array) -> Array:
        """silu(gate) · up, the middle of SwiGLU (Shazeer, 2020): [T, 2F] → [T, F]."""

    @abstractmethod
    def rope_and_store(
        self,
        qkv: Array,
        layer: Layer[Array],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: Batch[Array],
        eps: float,
    ) -> Array:
        """Norm q and k by head where the layer says so, rotate them, keep k and v at their slots.

        qkv [T, (H + 2K) E], cos_sin [T, 2E] (rows of `Rope.table`) → the rotated q, [T, H, E].
        """

    @abstractmethod
    def attention(self, q: Array, cache: LayerCache[Array], batch: Batch[Array]) -> Array:
        """Causal attention of each token over its own sequence: [T, H, E] → [T, H E].

        Grouped-query (Ainslie et al., 2023), scaled by 1/√E, over the cache's window.
        """

    # --- for people who write their own layers: NumPy's broadcasting rules ----------------------

    @abstractmethod
    def add(self, x: Array, y: Array) -> Array: ...

    @abstractmethod
    def mul(self, x: Array, y: Array) -> Array: ...

    @abstractmethod
    def matmul(self, x: Array, y: Array) -> Array: ...

    # --- larger words, spelled out of those above ---------------------------------------------

    def project_qkv(
        self,
        x: Array,
        layer: Layer[Array],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: Batch[Array],
        eps: float,
    ) -> Array:
        """Norm, project, rotate, store: [T, D] → q [T, H, E]."""
        qkv = self.linear(self.rms_norm(x, layer.attention_norm, eps), layer.qkv, layer.qkv_bias)
        return self.rope_and_store(qkv, layer, cos_sin, cache, batch, eps)

    def feed_forward(self, x: Array, layer: Layer[Array], eps: float) -> Array:
        """x + down(silu(gate) · up) of the normed x: [T, D] → [T, D]."""
        normed = self.rms_norm(x, layer.mlp_norm, eps)
        inner = self.silu_mul(self.linear(normed, layer.gate_up, layer.gate_up_bias))
        return self.linear(inner, layer.down, layer.down_bias, residual=x)

    def logits(self, x: Array, norm: Array, head: Array, eps: float) -> Array:
        """Scores of every token of the vocabulary: [R, D] → [R, V], float32."""
        return self.linear(self.rms_norm(x, norm, eps), head)

    def sample(
        self, logits: Array, draws: Sequence[Draw]
    ) -> Callable[[], list[Drawn | NumericalError]]:
        """One token for each row: [R, V] → R draws, or what keeps a row from being drawn.

        Returns how to get at them: a call that waits until they are there.
        """
        return lambda: sample(self.download(logits), draws)

    def graph(self, step: Step[Array]) -> Step[Array]:
        """The same step, possibly captured once and replayed."""
        return step

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        """Wraps the making of all weights; a backend may keep converted ones under the key."""
        yield


def check_columns(found: int, expected: int) -> None:
    """For kernels, which know no bounds: x is as wide as the weight that it meets.

    Raises:
        UsageError: it is not.
    """
    if found != expected:
        raise UsageError(f"x has {found} columns, expected {expected}, as the weight has")
