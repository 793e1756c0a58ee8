"""A tensor that still lies in a file: its name, shape and type, and how to read it in tiles.

Checkpoints return these and a backend's `weight` takes them. Tiles keep loading small: a tile is
read, converted and laid out before the next one is touched, so that a model's peak memory is its
own size and little more. Nothing here depends on a file format or a device.
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

# The same types by the names that safetensors and GGUF give them; both are little-endian.
FILE_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    `tiles()` yields consecutive rows (along the first axis) as arrays in the stored type, or in
    float32 where the stored type is quantised; concatenated they are the whole tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # as its file spells it: "BF16", "Q4_1"
    tiles: Callable[[], Iterator[HostArray]]
    # The same rows as the bytes of their blocks, [rows, bytes of a row], where the type is
    # quantised; None otherwise.
    blocks: Callable[[], Iterator[HostArray]] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def holds_the_same_as(self, other: StoredTensor) -> bool:
        """Whether two tensors have the same type, shape and numbers; it reads them until not."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        tiles = zip(self.tiles(), other.tiles(), strict=True)
        return all(np.array_equal(one, another) for one, another in tiles)

    def read(self) -> HostArray:
        """Read the whole tensor at once; for small ones."""
        return np.concatenate(list(self.tiles())).reshape(self.shape)
