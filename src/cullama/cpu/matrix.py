"""Weights of the numpy backend: how a matrix is laid out in memory, and how it is multiplied.

    tiles    float32 [O / 64, I, 64]  each tile is read from end to end by a small product
    columns  float32 [O, I], transposed in memory  for models that fit the processor's caches
    rows     any type [O, I]  where the BLAS has no small products, 64 does not divide O, or
             16-bit weights are converted to float32 some rows at a time

It has no quantised layout: quantised weights are dequantised when they are loaded. Compiled kernels
multiply them as they are (`packed.py`).

Decoding is limited by reading the weights: a product of one row with a matrix should run at the
speed of memory. BLAS libraries are poor at it (gemv reaches half of that speed here, and gains
little from a second thread), but OpenBLAS has kernels for *small* products on processors with
AVX-512 that neither copy nor rearrange their operands; a tile is shaped so that one of them streams
through it. Measured on two Zen 4 cores, SmolLM2-135M's matrices, one thread: tiles 28 GB/s, a dot
product a row 25, gemv 11 … 21, reading alone 31. In cache, gemv over columns is the fastest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import HostArray
from .storage import Storage
from .thread_pool import ThreadPool

Floats: TypeAlias = NDArray[np.float32]

TILE = 64  # outputs: four AVX-512 registers

# Where OpenBLAS has small-product kernels (its names for processors with AVX-512).
TILED_ARCHITECTURES = ("SkylakeX", "Cooperlake", "SapphireRapids")

# What one thread does, roughly, to decide whether a product is worth sharing.
READ_RATE = 25e9  # bytes a second
PRODUCT_RATE = 80e9  # operations a second

# Elements multiplied, and where necessary converted to float32, at a time: half a megabyte stays in
# a core's cache.
ROWS_ELEMENTS = 1 << 17


Layout: TypeAlias = Literal["tiles", "columns", "rows"]

IN_CACHE = 8 << 20  # bytes of weights that stay in a core's caches from token to token


def choose_layout(dtype: np.dtype, has_tiles: bool, weight_bytes: int) -> Layout:
    """Choose the layout of a whole model; a matrix that does not fit it is laid out in rows."""
    if dtype != np.float32:
        return "rows"
    if weight_bytes <= IN_CACHE:
        return "columns"
    return "tiles" if has_tiles else "rows"


@dataclass(frozen=True)
class Matrix(ABC):
    """An [O, I] weight."""

    data: HostArray

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    @abstractmethod
    def rows(self) -> int:
        """O."""

    @abstractmethod
    def fill(self, parts: Iterable[HostArray]) -> None:
        """Copy consecutive rows in, converted to the weight's type."""

    @abstractmethod
    def rows_at(self, rows: HostArray) -> Floats:
        """Look rows up: [T] → [T, I]."""

    @abstractmethod
    def product(self, x: Floats, thread_pool: ThreadPool) -> Floats:
        """x · weightᵀ: [T, I] → [T, O].

        What is computed together does not depend on the number of threads, so neither do the sums.
        """

    def seconds(self, tokens: int) -> float:
        """Estimate the time that one thread takes for a product with so many tokens."""
        return max(self.nbytes / READ_RATE, 2 * tokens * self.data.size / PRODUCT_RATE)


class RowMatrix(Matrix):
    """data [O, I]."""

    @property
    def rows(self) -> int:
        return len(self.data)

    def fill(self, parts: Iterable[HostArray]) -> None:
        row = 0
        for part in parts:
            self.data[row : row + len(part)] = part
            row += len(part)

    def rows_at(self, rows: HostArray) -> Floats:
        return self.data[rows].astype(np.float32, copy=False)

    def product(self, x: Floats, thread_pool: ThreadPool) -> Floats:
        outputs, inputs = self.data.shape
        out = np.empty((len(x), outputs), np.float32)
        step = max(1, ROWS_ELEMENTS // inputs)

        def multiply(part: slice) -> None:
            for chunk in range(part.start, part.stop):
                rows = slice(chunk * step, (chunk + 1) * step)
                weight = self.data[rows].astype(np.float32, copy=False)
                if len(x) == 1:
                    np.vecdot(weight, x[0], out=out[0, rows])  # each reads along memory
                else:
                    np.matmul(x, weight.T, out=out[:, rows])

        chunks = -(-outputs // step)
        thread_pool.execute(
            [partial(multiply, part) for part in thread_pool.split(chunks, self.seconds(len(x)))]
        )
        return out


class ColumnMatrix(RowMatrix):
    """data [O, I], transposed in memory."""

    def product(self, x: Floats, thread_pool: ThreadPool) -> Floats:
        return x @ self.data.T


class TiledMatrix(Matrix):
    """data [O / 64, I, 64]."""

    @property
    def rows(self) -> int:
        return len(self.data) * TILE

    def fill(self, parts: Iterable[HostArray]) -> None:
        row = 0
        for part in parts:
            done = 0
            while done < len(part):
                tile, column = divmod(row + done, TILE)
                count = min(TILE - column, len(part) - done)
                self.data[tile, :, column : column + count] = part[done : done + count].T
                done += count
            row += len(part)

    def rows_at(self, rows: HostArray) -> Floats:
        tiles, columns = np.divmod(rows, TILE)
        return self.data[tiles, :, columns]

    def product(self, x: Floats, thread_pool: ThreadPool) -> Floats:
        # numpy hands a single row to gemv, which is slow; two rows are a product like any other,
        # and cost no more than one: the time goes into reading the weight.
        rows = np.concatenate([x, x]) if len(x) == 1 else x
        out = np.empty((len(rows), len(self.data), TILE), np.float32)
        by_tile = out.transpose(1, 0, 2)
        thread_pool.execute(
            [
                partial(np.matmul, rows, self.data[part], out=by_tile[part])
                for part in thread_pool.split(len(self.data), self.seconds(len(x)))
            ]
        )
        return out.reshape(len(rows), self.rows)[: len(x)]


def allocate(storage: Storage, rows: int, columns: int, dtype: np.dtype, layout: Layout) -> Matrix:
    """Take memory for an [O, I] weight."""
    if layout == "columns":
        return ColumnMatrix(storage.take((columns, rows), dtype).T)
    if layout == "tiles" and rows % TILE == 0:
        return TiledMatrix(storage.take((rows // TILE, columns, TILE), dtype))
    return RowMatrix(storage.take((rows, columns), dtype))
