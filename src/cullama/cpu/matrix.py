"""How a weight lies in memory on the CPU, and how it is multiplied.

    tiles    float32 [O / 64, I, 64]  each tile is read from end to end by a small product
    columns  float32 [O, I], transposed in memory  for models that live in the processor's caches
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

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..tensor import HostArray
from .crew import Crew
from .storage import Storage

Floats: TypeAlias = NDArray[np.float32]

TILE = 64  # outputs: four AVX-512 registers

# Where OpenBLAS has small-product kernels (its names for processors with AVX-512).
TILED_ARCHITECTURES = ("SkylakeX", "Cooperlake", "SapphireRapids")

# What one thread does, roughly, to tell whether a product is worth sharing.
READ_RATE = 25e9  # bytes a second
PRODUCT_RATE = 80e9  # operations a second

# Elements of a narrow matrix made float32 at a time: half a megabyte stays in a core's cache.
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


def rows_of(weight: HostArray, rows: HostArray) -> HostArray:
    """Rows of the [O, I] matrix: [T] → float32 [T, I]."""
    if weight.ndim == 2:
        return weight[rows].astype(np.float32, copy=False)
    tiles, columns = np.divmod(rows, TILE)
    return weight[tiles, :, columns]


def product(x: Floats, weight: HostArray, crew: Crew) -> Floats:
    """x · weightᵀ: [T, I] → [T, O]."""
    if weight.ndim == 2 and weight.dtype == np.float32 and weight.flags.f_contiguous:  # columns
        return x @ weight.T
    # numpy hands a single row to gemv, which is slow; two rows are a product like any other, and
    # cost no more than one: the time goes into reading the weight.
    rows = np.concatenate([x, x]) if len(x) == 1 and weight.ndim == 3 else x
    out = np.empty((len(rows), weight.size // x.shape[1]), np.float32)
    seconds = max(weight.nbytes / READ_RATE, 2 * len(x) * weight.size / PRODUCT_RATE)
    multiply = _form(weight)
    crew.run(
        [partial(multiply, rows, weight, out, part) for part in crew.parts(len(weight), seconds)]
    )
    return out[: len(x)]


def _form(weight: HostArray) -> Callable[[Floats, HostArray, Floats, slice], object]:
    if weight.ndim == 3:
        return _tiles
    return _rows if weight.dtype == np.float32 else _narrow


def _tiles(x: Floats, weight: Floats, out: Floats, part: slice) -> None:
    by_tile = out.reshape(len(x), out.shape[1] // TILE, TILE).transpose(1, 0, 2)
    np.matmul(x, weight[part], out=by_tile[part])


def _rows(x: Floats, weight: Floats, out: Floats, part: slice) -> None:
    if len(x) == 1:
        np.vecdot(weight[part], x[0], out=out[0, part])  # a dot product a row, along memory
    else:
        np.matmul(x, weight[part].T, out=out[:, part])


def _narrow(x: Floats, weight: HostArray, out: Floats, part: slice) -> None:
    step = max(1, WIDENED // x.shape[1])
    for start in range(part.start, min(part.stop, len(weight)), step):
        rows = slice(start, min(start + step, part.stop))
        _rows(x, weight[rows].astype(np.float32), out[:, rows], slice(None))
