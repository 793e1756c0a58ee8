"""Every operator in numpy: the meaning that other backends are held to, and the CPU backend.

Weights are stored in the type asked for and always multiplied in float32: numpy has no fast
product of 16-bit floats. Activations are float32 throughout. It knows no model and no request.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import prod
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..config import ModelConfig
from ..kv_cache import KVCache, LayerCache
from ..operators import Operators
from ..tensor import HostArray, StoredTensor
from ..weights import Layer
from .attention import CpuBatch, attend, prepare, store
from .storage import Memory, Storage, weight_file

Floats: TypeAlias = NDArray[np.float32]

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

BLOCK_SIZE = 32  # tokens; the best of 16 … 256 for the product of a query and a run of blocks

# e^88 is the largest power of e that float32 holds; a gate below −88 is nothing either way.
LARGEST_EXPONENT = 88.0

# Elements of a 16-bit matrix made float32 at a time: half a megabyte stays in a core's cache.
WIDENED = 1 << 17


class CpuOperators(Operators[HostArray]):
    def __init__(self, dtype: str, threads: int, weight_folder: Path | None = None) -> None:
        """`weight_folder`: where converted weights are kept between runs; None keeps none."""
        self.dtype = DTYPES[dtype]
        self.description = f"cpu · {dtype} · {threads} thread{'s' if threads > 1 else ''}"
        self._weight_folder = weight_folder
        self._storage: Storage = Memory()

    # --- across, and into place --------------------------------------------------------------

    def upload(self, host: HostArray) -> HostArray:
        return host

    def upload_batch(self, batch: Batch[HostArray]) -> CpuBatch:
        return prepare(batch, BLOCK_SIZE)

    def download(self, array: HostArray) -> HostArray:
        return array

    @contextmanager
    def loading(self, conversion_key: str | None) -> Iterator[None]:
        if conversion_key is not None and self._weight_folder is not None:
            self._storage = weight_file(self._weight_folder, conversion_key, self.dtype.name)
        try:
            yield
            self._storage.finish()
        finally:
            self._storage.abandon()
            self._storage = Memory()

    def weight(self, parts: Sequence[StoredTensor]) -> HostArray:
        """[O, I] in name; in memory [I, O] where that is the faster way round for a product."""
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        # Streaming long rows of outputs beats streaming short ones by 1.2 … 1.7 ×. 16-bit
        # weights are widened row by row instead.
        is_transposed = rows >= columns and self.dtype == np.float32
        if is_transposed:
            weight = self._storage.take((columns, rows), self.dtype).T
        else:
            weight = self._storage.take((rows, columns), self.dtype)
        if not self._storage.is_filled:
            _fill(weight, parts)
        return weight

    def vector(self, parts: Sequence[StoredTensor]) -> HostArray:
        whole = np.concatenate([part.read() for part in parts])
        return whole.astype(self.dtype).astype(np.float32)

    def cache(self, config: ModelConfig, tokens: int) -> KVCache[HostArray]:
        heads, width, blocks = config.kv_heads, config.head_dim, -(-tokens // BLOCK_SIZE)
        layers = tuple(
            LayerCache(
                keys=_zeros((heads, blocks, width, BLOCK_SIZE), self.dtype),
                values=_zeros((heads, blocks, BLOCK_SIZE, width), self.dtype),
                window=window,
            )
            for window in config.windows
        )
        return KVCache(layers, blocks, BLOCK_SIZE)

    # --- the model's own ---------------------------------------------------------------------

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        return table[rows].astype(np.float32, copy=False)

    def linear(
        self,
        x: HostArray,
        weight: HostArray,
        bias: HostArray | None = None,
        residual: HostArray | None = None,
    ) -> HostArray:
        out = x @ weight.T if weight.dtype == np.float32 else _widened_product(x, weight)
        if bias is not None:
            out += bias
        if residual is not None:
            out += residual
        return out

    def rms_norm(self, x: HostArray, weight: HostArray, eps: float) -> HostArray:
        if x.shape[0] == 1 and x.ndim == 2:  # three calls into numpy instead of six
            row = x[0]
            out = x * (float(row.dot(row)) / len(row) + eps) ** -0.5
        else:
            mean = np.vecdot(x, x) / x.shape[-1]
            out = x / np.sqrt(mean + eps)[..., None]
        out *= weight
        return out

    def silu_mul(self, gate_up: HostArray) -> HostArray:
        half = gate_up.shape[-1] // 2
        gate, up = gate_up[..., :half], gate_up[..., half:]
        out = np.maximum(gate, -LARGEST_EXPONENT)
        np.negative(out, out=out)
        np.exp(out, out=out)
        out += 1
        np.divide(gate, out, out=out)
        out *= up
        return out

    def rope_and_store(
        self,
        qkv: HostArray,
        layer: Layer[HostArray],
        turns: HostArray,
        cache: LayerCache[HostArray],
        batch: Batch[HostArray],
        eps: float,
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        kv_heads, width = cache.keys.shape[0], cache.keys.shape[2]
        by_head = qkv.reshape(len(qkv), -1, width)  # [T, H + 2K, E]
        turned, values = by_head[:, :-kv_heads], by_head[:, -kv_heads:]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = self.rms_norm(turned[:, :-kv_heads], layer.q_norm, eps)
            turned = np.concatenate([q, self.rms_norm(turned[:, -kv_heads:], layer.k_norm, eps)], 1)
        turned = _rotate(turned, turns)
        store(turned[:, -kv_heads:], values, cache, batch)
        return turned[:, :-kv_heads]

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: Batch[HostArray]
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        return attend(q, cache, batch)

    # --- NumPy's broadcasting rules are numpy's --------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        return np.add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.multiply(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.matmul(x, y)


def _fill(weight: HostArray, parts: Sequence[StoredTensor]) -> None:
    row = 0
    for tile in chain.from_iterable(part.tiles() for part in parts):
        weight[row : row + len(tile)] = tile  # converts and, where need be, transposes
        row += len(tile)


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> HostArray:
    """Memory that costs nothing until it is touched, page by small page.

    numpy's own would ask for huge pages, and each head's few used blocks would make resident
    two megabytes of unused ones.
    """
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


def _widened_product(x: Floats, weight: HostArray) -> Floats:
    """x · weightᵀ for a 16-bit weight, a few rows made float32 at a time."""
    outputs, inputs = weight.shape
    out = np.empty((len(x), outputs), np.float32)
    rows = max(1, WIDENED // inputs)
    for start in range(0, outputs, rows):
        tile = weight[start : start + rows].astype(np.float32)
        np.matmul(x, tile.T, out=out[:, start : start + rows])
    return out


def _rotate(x: Floats, turns: Floats) -> Floats:
    """x · (cos, cos) + swapped(x) · (−sin, sin): [T, heads, E], [T, 2E] → [T, heads, E]."""
    tokens, heads, width = x.shape
    halves = (tokens, heads, 2, width // 2)
    cos, sin = turns.reshape(tokens, 2, 1, 2, width // 2).swapaxes(0, 1)
    x = x.reshape(halves)
    out = x * cos
    out += x[:, :, ::-1] * sin
    return out.reshape(tokens, heads, width)
