"""Every operator in numpy: the meaning that other backends are held to, and the CPU backend.

Weights are stored in the type asked for and always multiplied in float32: numpy has no fast
product of 16-bit floats. Activations are float32 throughout. It knows no model and no request.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import DTYPES, HostArray, StoredTensor
from ..model.batch import Batch
from ..model.config import ModelConfig
from ..model.kv_cache import KVCache, LayerCache
from ..model.layer import Layer
from ..model.operators import Operators, Step
from . import matrix
from .attention import FEW_ROWS, CpuBatch, attend, pack, store
from .storage import ALIGNMENT, Memory, Storage, weight_file
from .thread_pool import ThreadPool

Floats: TypeAlias = NDArray[np.float32]

logger = logging.getLogger("cullama")


BLOCK_SIZE = 32  # tokens; the best of 16 … 256 for the product of a query and a run of blocks

SHARE_FOR_CACHE = 0.25  # of the machine's memory; what is not used costs nothing

MOST_ARRAYS = 65_536  # of one model: each may need padding to a cache line

# e^88 is the largest power of e that float32 holds; a gate below −88 is nothing either way.
LARGEST_EXPONENT = 88.0

# Elements that several element-wise passes go over together: 128 KB stay close to the core.
PASSED_OVER = 1 << 16


class CpuOperators(Operators[HostArray]):
    def __init__(
        self, dtype: str, threads: int, has_tiles: bool, weight_folder: Path | None = None
    ) -> None:
        """`has_tiles`: weights are laid out for a BLAS with fast small products (`matrix.py`).
        `weight_folder`: where converted weights are kept between runs; None keeps none.
        """
        self.has_tiles = has_tiles
        self._layout: matrix.Layout = "tiles" if has_tiles else "rows"
        self.dtype, self.dtype_name = DTYPES[dtype], dtype
        self.use_threads(threads)
        self._weight_folder = weight_folder
        self._storage: Storage = Memory()

    def use_threads(self, threads: int) -> None:
        """Change how many cores share the work; the numbers stay the same, bit for bit."""
        self.thread_pool = ThreadPool(threads)
        threads_in_words = f"{threads} thread{'s' if threads > 1 else ''}"
        self.description = f"cpu · {self.dtype.name} · {threads_in_words}"

    # --- across, and into place --------------------------------------------------------------

    def upload(self, host: HostArray) -> HostArray:
        return host

    def upload_batch(self, batch: Batch[HostArray]) -> Batch[HostArray]:
        return pack(batch, BLOCK_SIZE)

    def download(self, array: HostArray) -> HostArray:
        return array

    @contextmanager
    def loading(
        self, conversion_key: str | None, tensors: Collection[StoredTensor]
    ) -> Iterator[None]:
        size = sum(tensor.size for tensor in tensors) * self.dtype.itemsize
        self._layout = matrix.choose_layout(self.dtype, self.has_tiles, size)
        if conversion_key is not None and self._weight_folder is not None:
            self._storage = self._file_or_memory(self._weight_folder, conversion_key, size)
        try:
            yield
            self._finish_storage()
        finally:
            self._storage.abandon()
            self._storage = Memory()

    def _file_or_memory(self, folder: Path, conversion_key: str, size: int) -> Storage:
        room = size + MOST_ARRAYS * ALIGNMENT
        try:
            return weight_file(folder, conversion_key, self._layout_name(), room)
        except OSError as error:
            _warn_not_kept(folder, error)
            return Memory()

    def _layout_name(self) -> str:
        """Tells apart files of converted weights."""
        return f"{self.dtype.name}-{self._layout}"

    def _finish_storage(self) -> None:
        try:
            if kept := self._storage.finish():
                size = kept.stat().st_size / 1e6
                logger.info("the converted weights are kept in %s (%.0f MB)", kept, size)
        except OSError as error:  # the weights are in memory all the same
            _warn_not_kept(self._weight_folder, error)

    def weight(self, parts: Sequence[StoredTensor]) -> HostArray:
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        weight = matrix.place(self._storage, rows, columns, self.dtype, self._layout)
        if not self._storage.is_filled:
            matrix.fill(weight, chain.from_iterable(part.tiles() for part in parts))
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

    def cache_bytes(self, config: ModelConfig) -> int:
        return config.cache_elements * self.dtype.itemsize

    @property
    def cache_budget(self) -> tuple[int, int]:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(memory * SHARE_FOR_CACHE), memory

    def copy_blocks(self, cache: KVCache[HostArray], copies: Sequence[tuple[int, int]]) -> None:
        for layer in cache.layers:
            for source, target in copies:
                layer.keys[:, target] = layer.keys[:, source]
                layer.values[:, target] = layer.values[:, source]

    # --- the model's own ---------------------------------------------------------------------

    def gather(self, table: HostArray, rows: HostArray) -> HostArray:
        return matrix.rows_of(table, rows)

    def linear(
        self,
        x: HostArray,
        weight: HostArray,
        bias: HostArray | None = None,
        residual: HostArray | None = None,
    ) -> HostArray:
        out = self._product(x, weight)
        if bias is not None:
            out += bias
        if residual is not None:
            out += residual
        return out

    def _product(self, x: HostArray, weight: HostArray) -> Floats:
        return matrix.product(x, weight, self.thread_pool)

    def rms_norm(self, x: HostArray, weight: HostArray, eps: float) -> HostArray:
        if x.shape[0] != 1 or x.ndim != 2:
            return self._rms_norm_rows(x, weight, eps)
        row = x[0]  # three calls into numpy instead of six
        out = x * (float(row.dot(row)) / len(row) + eps) ** -0.5
        out *= weight
        return out

    def _rms_norm_rows(self, x: HostArray, weight: HostArray, eps: float) -> Floats:
        mean = np.vecdot(x, x) / x.shape[-1]
        out: Floats = x / np.sqrt(mean + eps)[..., None]
        out *= weight
        return out

    def silu_mul(self, gate_up: HostArray) -> HostArray:
        half = gate_up.shape[-1] // 2
        out = np.empty((len(gate_up), half), np.float32)
        step = max(1, PASSED_OVER // half)
        if len(out) <= step:
            _silu_mul(gate_up[:, :half], gate_up[:, half:], out)
            return out
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            _silu_mul(gate_up[rows, :half], gate_up[rows, half:], out[rows])
        return out

    def rope_and_store(
        self,
        qkv: HostArray,
        layer: Layer[HostArray],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: Batch[HostArray],
        eps: float,
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        kv_heads, width = cache.keys.shape[0], cache.keys.shape[2]
        by_head = qkv.reshape(len(qkv), qkv.shape[1] // width, width)  # [T, H + 2K, E]
        turned, values = by_head[:, :-kv_heads], by_head[:, -kv_heads:]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = self.rms_norm(turned[:, :-kv_heads], layer.q_norm, eps)
            turned = np.concatenate([q, self.rms_norm(turned[:, -kv_heads:], layer.k_norm, eps)], 1)
        turned = _rotate(turned, cos_sin)
        store(turned[:, -kv_heads:], values, cache, batch)
        return turned[:, :-kv_heads]

    def attention(
        self, q: HostArray, cache: LayerCache[HostArray], batch: Batch[HostArray]
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        return attend(q, cache, batch, self.thread_pool)

    # --- for speed only: prompts a few rows at a time -------------------------------------------

    def project_qkv(
        self,
        x: HostArray,
        layer: Layer[HostArray],
        cos_sin: HostArray,
        cache: LayerCache[HostArray],
        batch: Batch[HostArray],
        eps: float,
    ) -> HostArray:
        assert isinstance(batch, CpuBatch)
        whole = super().project_qkv
        if not batch.parts:
            return whole(x, layer, cos_sin, cache, batch, eps)
        kv_heads, _, width, _ = cache.keys.shape
        heads = matrix.rows_in(layer.qkv) // width - 2 * kv_heads
        out = np.empty((len(x), heads, width), np.float32)

        def some(share: slice) -> None:
            for rows, part in batch.parts[share]:
                out[rows] = whole(x[rows], layer, cos_sin[rows], cache, part, eps)

        self._share(some, len(batch.parts))
        return out

    def feed_forward(self, x: HostArray, layer: Layer[HostArray], eps: float) -> HostArray:
        whole = super().feed_forward
        if len(x) <= FEW_ROWS:
            return whole(x, layer, eps)
        out = np.empty_like(x)

        def some(share: slice) -> None:
            for start in range(share.start * FEW_ROWS, share.stop * FEW_ROWS, FEW_ROWS):
                rows = slice(start, start + FEW_ROWS)
                out[rows] = whole(x[rows], layer, eps)

        self._share(some, -(-len(x) // FEW_ROWS))
        return out

    def _share(self, work: Callable[[slice], None], units: int) -> None:
        """Large work in so many units, shared by the threads."""
        self.thread_pool.execute(
            [partial(work, part) for part in self.thread_pool.split(units, seconds=1.0)]
        )

    def graph(self, step: Step[HostArray]) -> Step[HostArray]:
        """What is not a number is found where a token is drawn, not warned of in each product."""

        def quiet(batch: Batch[HostArray]) -> HostArray:
            with np.errstate(invalid="ignore", over="ignore"):
                return step(batch)

        return quiet

    # --- NumPy's broadcasting rules are numpy's --------------------------------------------------

    def add(self, x: HostArray, y: HostArray) -> HostArray:
        return np.add(x, y)

    def mul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.multiply(x, y)

    def matmul(self, x: HostArray, y: HostArray) -> HostArray:
        return np.matmul(x, y)


def _warn_not_kept(folder: Path | None, error: OSError) -> None:
    logger.warning(
        "cannot keep converted weights in %s (%s); they are converted again at each start",
        folder,
        error.strerror or error,
    )


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> HostArray:
    """Memory that costs nothing until it is touched, page by small page.

    numpy's own would ask for huge pages, and each head's few used blocks would make resident
    two megabytes of unused ones.
    """
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


def _silu_mul(gate: Floats, up: Floats, out: Floats) -> None:
    """out = gate / (1 + e^−gate) · up"""
    np.maximum(gate, -LARGEST_EXPONENT, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    out += 1
    np.divide(gate, out, out=out)
    out *= up


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
