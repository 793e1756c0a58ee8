"""How a weight lies in memory on the CPU, and how it is multiplied.

    tiles    float32 [O / 64, I, 64]  each tile is read from end to end by a small product
    columns  float32 [O, I], transposed in memory  for models that live in the processor's caches
    packed   in the file's own type (`packed.py`), for compiled kernels; here it is only unpacked
    rows     any type [O, I]  where the BLAS has no small products, 64 does not divide O, or
             16-bit weights are made float32 some rows at a time

Decoding is reading: a product of one row with a matrix should run at the speed of memory. BLAS
libraries are poor at it (gemv reaches half of that speed here, and gains little from a second
thread), but OpenBLAS has kernels for *small* products on processors with AVX-512 that neither copy
nor rearrange their operands; a tile is shaped so that one of them streams through it. Measured on
two Zen 4 cores, SmolLM2-135M's matrices, one thread: tiles 28 GB/s, a dot product a row 25, gemv
11 … 21, reading alone 31. In cache, gemv over columns is the fastest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import HostArray
from .packed import PackedMatrix
from .storage import Storage
from .thread_pool import ThreadPool

Floats: TypeAlias = NDArray[np.float32]

TILE = 64  # outputs: four AVX-512 registers

# Where OpenBLAS has small-product kernels (its names for processors with AVX-512).
TILED_ARCHITECTURES = ("SkylakeX", "Cooperlake", "SapphireRapids")

# What one thread does, roughly, to tell whether a product is worth sharing.
READ_RATE = 25e9  # bytes a second
PRODUCT_RATE = 80e9  # operations a second

# Elements taken, and if need be made float32, at a time: half a megabyte stays in a core's cache.
WIDENED = 1 << 17


Layout: TypeAlias = Literal["tiles", "columns", "rows"]

IN_CACHE = 8 << 20  # bytes of weights that stay in a core's caches from token to token


def choose_layout(dtype: np.dtype, has_tiles: bool, weight_bytes: int) -> Layout:
    """For a whole model; a matrix that does not fit it lies in rows."""
    if dtype != np.float32:
        return "rows"
    if weight_bytes <= IN_CACHE:
        return "columns"
    return "tiles" if has_tiles else "rows"


def place(storage: Storage, rows: int, columns: int, dtype: np.dtype, layout: Layout) -> HostArray:
    """Room for an [O, I] weight."""
    if layout == "columns":
        return storage.take((columns, rows), dtype).T
    if layout == "tiles" and rows % TILE == 0:
        return storage.take((rows // TILE, columns, TILE), dtype)
    return storage.take((rows, columns), dtype)


def fill(weight: HostArray, parts: Iterable[HostArray]) -> None:
    """Lay consecutive rows out, converting them to the weight's type."""
    row = 0
    for part in parts:
        if weight.ndim == 2:
            weight[row : row + len(part)] = part
        else:
            _fill_tiles(weight, row, part)
        row += len(part)


def _fill_tiles(weight: HostArray, row: int, part: HostArray) -> None:
    done = 0
    while done < len(part):
        tile, column = divmod(row + done, TILE)
        count = min(TILE - column, len(part) - done)
        weight[tile, :, column : column + count] = part[done : done + count].T
        done += count


def rows_in(weight: HostArray) -> int:
    """O of an [O, I] weight."""
    return len(weight) * (TILE if weight.ndim == 3 else 1)


def rows_of(weight: HostArray | PackedMatrix, rows: HostArray) -> HostArray:
    """Rows of the [O, I] matrix: [T] → float32 [T, I]."""
    if isinstance(weight, PackedMatrix):
        return weight.rows_at(rows)
    if weight.ndim == 2:
        return weight[rows].astype(np.float32, copy=False)
    tiles, columns = np.divmod(rows, TILE)
    return weight[tiles, :, columns]


def product(x: Floats, weight: HostArray | PackedMatrix, thread_pool: ThreadPool) -> Floats:
    """x · weightᵀ: [T, I] → [T, O].

    What is computed together does not depend on the threads, so neither do the sums.
    """
    if isinstance(weight, PackedMatrix):
        return weight.product(x)
    if weight.ndim == 2 and weight.dtype == np.float32 and weight.flags.f_contiguous:  # columns
        return x @ weight.T
    seconds = max(weight.nbytes / READ_RATE, 2 * len(x) * weight.size / PRODUCT_RATE)
    if weight.ndim == 2:
        return _by_rows(x, weight, thread_pool, seconds)
    return _by_tiles(x, weight, thread_pool, seconds)


def _by_tiles(x: Floats, weight: Floats, thread_pool: ThreadPool, seconds: float) -> Floats:
    # numpy hands a single row to gemv, which is slow; two rows are a product like any other, and
    # cost no more than one: the time goes into reading the weight.
    rows = np.concatenate([x, x]) if len(x) == 1 else x
    out = np.empty((len(rows), len(weight), TILE), np.float32)
    by_tile = out.transpose(1, 0, 2)
    thread_pool.execute(
        [
            partial(np.matmul, rows, weight[part], out=by_tile[part])
            for part in thread_pool.split(len(weight), seconds)
        ]
    )
    return out.reshape(len(rows), len(weight) * TILE)[: len(x)]


def _by_rows(x: Floats, weight: HostArray, thread_pool: ThreadPool, seconds: float) -> Floats:
    outputs, inputs = weight.shape
    out = np.empty((len(x), outputs), np.float32)
    step = max(1, WIDENED // inputs)

    def some(part: slice) -> None:
        for chunk in range(part.start, part.stop):
            rows = slice(chunk * step, (chunk + 1) * step)
            _few_rows(x, weight[rows].astype(np.float32, copy=False), out[:, rows])

    chunks = -(-outputs // step)
    thread_pool.execute([partial(some, part) for part in thread_pool.split(chunks, seconds)])
    return out


def _few_rows(x: Floats, weight: Floats, out: Floats) -> None:
    if len(x) == 1:
        np.vecdot(weight, x[0], out=out[0])  # a dot product a row, each reading along memory
    else:
        np.matmul(x, weight.T, out=out)
