"""The Operators interface: the operators that a Llama is made of, and what they mean.

Two devices' backends implement it: the CPU's, in two implementations (numpy, the specification, and
compiled kernels), and CUDA's. Composite operators have default bodies here, made of the primitive
ones; a backend may replace those bodies *for speed only*, and a test holds it to the default. A
model sees arrays and operators, never a dtype, a device, a stream or a pointer. Memory, loading and
the cache are `backend.py`'s.

The alphabet, here and everywhere:
    T tokens in the batch   S sequences   R rows of logits   D model width   F hidden width
    H query heads   K key/value heads   E head width   V vocabulary   I, O a matrix's in and out
    P positions in the rope table
Sums are taken in float32 (products of quantised weights sum integers within a group of columns).
Results are float32 on the CPU; on CUDA they are rounded once to the storage type, except logits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import NumericalError, UsageError
from ..sampling.draw import Draw, Drawn
from ..sampling.sampler import sample
from .backend import Backend
from .batch import BatchType
from .layer import Array, Weight

if TYPE_CHECKING:
    from .kv_cache import LayerCache
    from .layer import Attention, Linear, Mlp, Norm

Forward: TypeAlias = Callable[[BatchType], Array]  # one forward pass: its batch → its logits

COMPOSITE_OPERATORS = ("project_qkv", "feed_forward", "logits")


class Operators(Backend[Array, Weight, BatchType]):
    """The math of a Llama on one backend.

    Operators change no operand, except the cache that `rope_and_store` writes to. A result may
    share memory with an operand (a slice of a table), so it is not to be changed either.
    """

    # --- primitive operators ---------------------------------------------------------------------

    @abstractmethod
    def embed(self, table: Weight, tokens: Array) -> Array:
        """Look tokens up in the embedding: [V, D], [T] → [T, D]."""

    @abstractmethod
    def gather(self, table: Array, rows: Array) -> Array:
        """Select rows: [P, D], [T] → [T, D]."""

    @abstractmethod
    def linear(
        self, x: Array, projection: Linear[Array, Weight], residual: Array | None = None
    ) -> Array:
        """x · weightᵀ (+ bias) (+ residual): [T, I], [O, I] → [T, O]."""

    @abstractmethod
    def rms_norm(self, x: Array, norm: Norm[Array]) -> Array:
        """x / √(mean x² + eps) · weight (Zhang & Sennrich, 2019): [T, D] → [T, D]."""

    @abstractmethod
    def silu_mul(self, gate_up: Array) -> Array:
        """silu(gate) · up, the middle of SwiGLU (Shazeer, 2020): [T, 2F] → [T, F]."""

    @abstractmethod
    def rope_and_store(
        self,
        qkv: Array,
        attention: Attention[Array, Weight],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: BatchType,
    ) -> Array:
        """Norm q and k by head where the model does, rotate them, store k and v at their slots.

        qkv [T, (H + 2K) E], cos_sin [T, 2E] (rows of `Rope.table`) → the rotated q, [T, H, E].
        A slot of −1 stores nothing.
        """

    @abstractmethod
    def attention(self, q: Array, cache: LayerCache[Array], batch: BatchType) -> Array:
        """Causal attention of each token over its own sequence: [T, H, E] → [T, H E].

        Grouped-query (Ainslie et al., 2023), scaled by 1/√E, over the cache's window.
        """

    # --- for people who write their own layers: NumPy's broadcasting rules -----------------------

    @abstractmethod
    def add(self, x: Array, y: Array) -> Array: ...

    @abstractmethod
    def mul(self, x: Array, y: Array) -> Array: ...

    @abstractmethod
    def matmul(self, x: Array, y: Array) -> Array: ...

    # --- composite operators ---------------------------------------------------------------------

    def project_qkv(
        self,
        x: Array,
        attention: Attention[Array, Weight],
        cos_sin: Array,
        cache: LayerCache[Array],
        batch: BatchType,
    ) -> Array:
        """Norm, project, rotate, store: [T, D] → q [T, H, E]."""
        qkv = self.linear(self.rms_norm(x, attention.norm), attention.qkv)
        return self.rope_and_store(qkv, attention, cos_sin, cache, batch)

    def feed_forward(self, x: Array, mlp: Mlp[Array, Weight]) -> Array:
        """x + down(silu(gate) · up) of the normed x: [T, D] → [T, D]."""
        inner = self.silu_mul(self.linear(self.rms_norm(x, mlp.norm), mlp.gate_up))
        return self.linear(inner, mlp.down, residual=x)

    def logits(self, x: Array, norm: Norm[Array], head: Linear[Array, Weight]) -> Array:
        """Logits of every token of the vocabulary: [R, D] → [R, V], float32."""
        return self.linear(self.rms_norm(x, norm), head)

    # --- sampling, and passes as a whole ---------------------------------------------------------

    def sample(
        self, logits: Array, draws: Sequence[Draw]
    ) -> Callable[[], list[Drawn | NumericalError]]:
        """Draw one token for each row of logits, [R, V].

        Returns a call that waits for the R draws; a row that cannot be drawn from is an error.
        """
        return lambda: sample(self.download(logits), draws)

    def graph(self, forward: Forward[BatchType, Array]) -> Forward[BatchType, Array]:
        """Return the same pass, possibly captured once and replayed."""
        return forward


AnyOperators: TypeAlias = Operators[Any, Any, Any]


def check_columns(found: int, expected: int) -> None:
    """Check that x is as wide as its weight, for kernels, which do not check bounds.

    Raises:
        UsageError: it is not.
    """
    if found != expected:
        raise UsageError(f"x has {found} columns, expected {expected}, as the weight has")
