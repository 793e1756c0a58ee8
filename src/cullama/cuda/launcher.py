"""Launches the kernels of `kernels/`, and allocates the arrays that they write to.

It holds what every operator needs: loaded kernels, the pool that results come from, the storage
type. Which kernel runs on which grid is decided by its callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import memory
from .memory import DeviceArray, Pool
from .module import Kernels, Size3

SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # of kernel names

THREADS = 256  # a block, where nothing else is asked for
WARP = 32
WARPS = 4  # a block, where each warp works by itself


class Launcher:
    """Launches kernels, and allocates their results from one pool, in one storage type."""

    def __init__(self, kernels: Kernels, pool: Pool, dtype: np.dtype) -> None:
        self.kernels, self.pool, self.dtype = kernels, pool, dtype
        self.suffix = SUFFIXES[dtype.name]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type | None = None) -> DeviceArray:
        """Allocate an array, in the storage type unless another is asked for."""
        return memory.empty(self.pool, shape, self.dtype if dtype is None else dtype)

    def launch(
        self,
        file: str,
        kernel: str,
        grid: Size3,
        threads: int,
        arguments: tuple[Any, ...],
        shared: int = 0,
    ) -> None:
        """Launch a kernel of `kernels/FILE.cu`, unless its grid is empty, which drivers refuse."""
        if 0 not in grid:
            self.kernels(file, kernel)(grid, threads, *arguments, shared=shared)

    @contextmanager
    def allocating_from(self, pool: Pool) -> Iterator[None]:
        """Allocate arrays from `pool` within the context."""
        self.pool, before = pool, self.pool
        try:
            yield
        finally:
            self.pool = before


def blocks_for(count: int, each: int) -> int:
    """Return how many blocks cover `count` units of work, `each` of them a block."""
    return -(-count // each)


def address_of(array: DeviceArray | None) -> int:
    """Return what a kernel gets for an operand that may be left out: 0 for none."""
    return 0 if array is None else array.address
