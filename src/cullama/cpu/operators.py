"""Every operator in numpy: the specification, which compiled kernels and CUDA are tested against.

Weights are stored in the type asked for and always multiplied in float32: numpy has no fast
product of 16-bit floats. Activations are float32 throughout. Memory and the cache are
`backend.py`'s, the layouts of weights `matrix.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import DTYPES, HostArray, StoredTensor
from ..model.batch import Batch
from ..model.kv_cache import LayerCache
from ..model.layer import Attention, Linear, Mlp, Norm
from ..model.operators import Forward, Operators
from . import matrix
from .attention import ROWS_PER_CHUNK, CpuBatch, attend, pack, store
from .backend import BLOCK_SIZE, HostBackend
from .matrix import Matrix

Floats: TypeAlias = NDArray[np.float32]
CpuForward: TypeAlias = Forward[CpuBatch, HostArray]

# e^88 is the largest whole power of e that float32 holds; silu below −88 is negligible either way.
MAX_EXPONENT = 88.0

# Elements that several element-wise passes go over together: 256 KB stay close to the core.
ELEMENTWISE_ELEMENTS = 1 << 16


class CpuOperators(HostBackend[Matrix, CpuBatch], Operators[HostArray, Matrix, CpuBatch]):
    def __init__(
        self, dtype: str, threads: int, has_tiles: bool, weight_folder: Path | None = None
    ) -> None:
        """`has_tiles`: lay weights out for a BLAS with fast small products (`matrix.py`)."""
        self.has_tiles = has_tiles
        self._layout: matrix.Layout = "tiles" if has_tiles else "rows"
        super().__init__(DTYPES[dtype], dtype, threads, weight_folder)

    def upload_batch(self, batch: Batch[HostArray]) -> CpuBatch:
        return pack(batch, BLOCK_SIZE)

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        size = sum(tensor.size for tensor in tensors) * self.dtype.itemsize
        self._layout = matrix.choose_layout(self.dtype, self.has_tiles, size)
        with self._converted_weights(conversion_key, f"{self.dtype.name}-{self._layout}", size):
            yield

    def weight(self, parts: Sequence[StoredTensor]) -> Matrix:
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        weight = matrix.allocate(self._storage, rows, columns, self.dtype, self._layout)
        if not self._storage.is_filled:
            weight.fill(chain.from_iterable(part.tiles() for part in parts))
        return weight

    def vector(self, parts: Sequence[StoredTensor]) -> HostArray:
        whole = np.concatenate([part.read() for part in parts])
        return whole.astype(self.dtype).astype(np.float32)

    # --- primitive operators ---------------------------------------------------------------------

    def embed(self, table: Matrix, tokens: HostArray) -> HostArray:
        return table.rows_at(tokens)

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        return table[rows].astype(np.float32, copy=False)

    def linear(
        self,
        x: HostArray,
        projection: Linear[HostArray, Matrix],
        residual: HostArray | None = None,
    ) -> HostArray:
        out = projection.weight.product(x, self.thread_pool)
        if projection.bias is not None:
            out += projection.bias
        if residual is not None:
            out += residual
        return out

    def rms_norm(self, x: HostArray, norm: Norm[HostArray]) -> HostArray:
        if x.shape[0] != 1 or x.ndim != 2:
            return rms_norm_rows(x, norm)
        row = x[0]  # three calls into numpy instead of six
        out = x * (float(row.dot(row)) / len(row) + norm.eps) ** -0.5
        out *= norm.weight
        return out

    def silu_mul(self, gate_up: HostArray) -> HostArray:
        half = gate_up.shape[-1] // 2
        out = np.empty((len(gate_up), half), np.float32)
        step = max(1, ELEMENTWISE_ELEMENTS // half)
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            gate, inner = gate_up[rows, :half], out[rows]
            np.maximum(gate, -MAX_EXPONENT, out=inner)  # gate / (1 + e^−gate) · up
            np.negative(inner, out=inner)
            np.exp(inner, out=inner)
            inner += 1
            np.divide(gate, inner, out=inner)
            inner *= gate_up[rows, half:]
        return out

    def rope_and_store(
        self,
        qkv: HostArray,
        attention: Attention[HostArray, Matrix],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: CpuBatch,
    ) -> HostArray:
        kv_heads, width = cache.keys.shape[0], cache.keys.shape[2]
        by_head = qkv.reshape(len(qkv), qkv.shape[1] // width, width)  # [T, H + 2K, E]
        q_and_k, values = by_head[:, :-kv_heads], by_head[:, -kv_heads:]
        if attention.q_norm is not None and attention.k_norm is not None:
            q = self.rms_norm(q_and_k[:, :-kv_heads], attention.q_norm)
            k = self.rms_norm(q_and_k[:, -kv_heads:], attention.k_norm)
            q_and_k = np.concatenate([q, k], 1)
        q_and_k = _rotate(q_and_k, cos_sin)
        store(q_and_k[:, -kv_heads:], values, cache, batch)
        return q_and_k[:, :-kv_heads]

    def attention(self, q: HostArray, cache: LayerCache[HostArray], batch: CpuBatch) -> HostArray:
        return attend(q, cache, batch, self.thread_pool)

    # --- for speed only: prompts a few rows at a time --------------------------------------------

    def project_qkv(
        self,
        x: HostArray,
        attention: Attention[HostArray, Matrix],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: CpuBatch,
    ) -> HostArray:
        default = super().project_qkv
        if not batch.parts:
            return default(x, attention, cos_sin, cache, batch)
        kv_heads, _, width, _ = cache.keys.shape
        heads = attention.qkv.weight.rows // width - 2 * kv_heads
        out = np.empty((len(x), heads, width), np.float32)

        def project(share: slice) -> None:
            for rows, part in batch.parts[share]:
                out[rows] = default(x[rows], attention, cos_sin[rows], cache, part)

        self._run_shared(project, len(batch.parts))
        return out

    def feed_forward(self, x: HostArray, mlp: Mlp[HostArray, Matrix]) -> HostArray:
        default = super().feed_forward
        if len(x) <= ROWS_PER_CHUNK:
            return default(x, mlp)
        out = np.empty_like(x)

        def feed(share: slice) -> None:
            for start in range(
                share.start * ROWS_PER_CHUNK, share.stop * ROWS_PER_CHUNK, ROWS_PER_CHUNK
            ):
                rows = slice(start, start + ROWS_PER_CHUNK)
                out[rows] = default(x[rows], mlp)

        self._run_shared(feed, -(-len(x) // ROWS_PER_CHUNK))
        return out

    def _run_shared(self, work: Callable[[slice], None], units: int) -> None:
        """Share that many units of work among the threads, each unit large."""
        self.thread_pool.execute(
            [partial(work, part) for part in self.thread_pool.split(units, seconds=1.0)]
        )

    def graph(self, forward: CpuForward) -> CpuForward:
        """Silence numpy's warnings: NaN is reported where a token is drawn from it."""

        def quiet(batch: CpuBatch) -> HostArray:
            with np.errstate(invalid="ignore", over="ignore"):
                return forward(batch)

        return quiet

    # --- NumPy's broadcasting rules are numpy's --------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        return np.add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.multiply(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.matmul(x, y)


def rms_norm_rows(x: HostArray, norm: Norm[HostArray]) -> Floats:
    """`rms_norm` of any number of rows: each gives the same bits in any company."""
    mean = np.vecdot(x, x) / x.shape[-1]
    out: Floats = x / np.sqrt(mean + norm.eps)[..., None]
    out *= norm.weight
    return out


def _rotate(x: Floats, cos_sin: Floats) -> Floats:
    """x · (cos, cos) + swapped(x) · (−sin, sin): [T, heads, E], [T, 2E] → [T, heads, E]."""
    tokens, heads, width = x.shape
    half = width // 2
    cos = cos_sin[:, :width].reshape(tokens, 1, 2, half)
    sin = cos_sin[:, width:].reshape(tokens, 1, 2, half)
    x = x.reshape(tokens, heads, 2, half)
    out = x * cos
    out += x[:, :, ::-1] * sin
    return out.reshape(tokens, heads, width)
