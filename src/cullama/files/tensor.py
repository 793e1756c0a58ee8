"""A tensor that still lies in a file: its name, shape and type, and how to read it in tiles.

This is what checkpoints hand out and what a backend's `weight` takes in. It knows no file format
and no device. Tiles keep loading small: a tile is read, converted and laid out before the next
one is touched, so that a model's peak memory is its own size and little more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

HostArray: TypeAlias = NDArray[Any]

# What weights and caches are stored in, by the names that users give.
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    `tiles()` yields consecutive rows (along the first axis) as arrays in the stored type, or in
    float32 where the stored type is quantised; laid end to end they are the whole tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # as its file spells it, for people: "BF16", "Q4_1"
    tiles: Callable[[], Iterator[HostArray]]
    # The same rows as they are stored, as bytes [rows, row bytes]; None where `tiles` has them.
    blocks: Callable[[], Iterator[HostArray]] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def read(self) -> HostArray:
        """The whole tensor at once, for the small ones."""
        return np.concatenate(list(self.tiles())).reshape(self.shape)
