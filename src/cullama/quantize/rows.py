"""Encodes a tensor's rows as the bytes of a GGUF type, refusing numbers that the type cannot hold.

Quantising is gguf-py's, whose results are llama.cpp's. It does not know what the tensor is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from ..files.quantized_blocks import BLOCK_SIZES
from ..files.tensor import HostArray
from .plan import Target

RowBytes = NDArray[np.uint8]  # [rows, bytes of a row]

MAX_FLOAT16 = 65504.0  # F16 is float16, and so are the scales of all quantised types


def encoded_rows(target: Target, path: Path, progress: Callable[[int], None]) -> RowBytes:
    """Encode all rows, [rows, bytes of a row]; `path` is for messages.

    `progress` is called with the number of elements of each tile.

    Raises:
        ModelFileError: a number is NaN or infinite, or too large for the type.
    """
    rows = np.empty((target.source.shape[0], row_bytes(target)), np.uint8)
    first = 0
    for tile in _encoded_tiles(target, path):
        rows[first : first + len(tile)] = tile
        first += len(tile)
        progress(len(tile) * prod(target.source.shape[1:]))
    if target.head_dim is None:
        return rows
    # From Hugging Face's order of rows in a head, [2, E/2], to llama.cpp's, [E/2, 2].
    by_half = rows.reshape(-1, 2, target.head_dim // 2, rows.shape[1])
    return by_half.swapaxes(1, 2).reshape(rows.shape)


def row_bytes(target: Target) -> int:
    block = BLOCK_SIZES[target.dtype]
    return prod(target.source.shape[1:]) // block.columns * block.size


def _encoded_tiles(target: Target, path: Path) -> Iterator[RowBytes]:
    """Check and encode rows; blocks that are of the type already are copied unchanged."""
    source = target.source
    if source.blocks is not None and source.dtype == target.dtype:
        yield from source.blocks()
        return
    for tile in source.tiles():
        numbers = tile.astype(np.float32, copy=False)
        largest = float(np.abs(numbers).max())
        where = f"{path}: tensor {source.name!r}: holds"
        if not np.isfinite(largest):
            raise ModelFileError(f"{where} NaN or infinity, expected finite numbers")
        if target.dtype not in ("F32", "BF16") and largest > MAX_FLOAT16:
            raise ModelFileError(
                f"{where} {largest:g}, expected at most {MAX_FLOAT16:g} for {target.dtype}; "
                "use --type bf16"
            )
        yield _encoded(numbers, target.dtype).reshape(len(tile), -1)


def _encoded(numbers: HostArray, dtype: str) -> RowBytes:
    if dtype == "BF16":
        return numbers.astype(ml_dtypes.bfloat16).view(np.uint8)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    # In a block of tiny numbers, 1 / scale overflows, and the scale becomes 0 in float16.
    # As one long row, because gguf-py converts 16 rows at a time: slow for narrow ones.
    with np.errstate(over="ignore", invalid="ignore"):
        encoded: HostArray = quantize(numbers.reshape(1, -1), GGMLQuantizationType[dtype])
    return encoded.view(np.uint8)
