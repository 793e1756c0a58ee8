"""Launches paged attention: which kernel of `kernels/attention.cu`, on which grid.

Long contexts are split, so that a few sequences keep the whole GPU busy, and a second kernel
merges what the splits found.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np

from ..model.kv_cache import LayerCache
from .batch import CudaBatch
from .launcher import WARP, Launcher, address_of, blocks_for
from .memory import DeviceArray

BLOCK_SIZE = 32  # tokens: a tile of keys in kernels/attention.cu
SPLIT = 256  # positions that a block covers where contexts are split
MAX_PARTIAL = 64 << 20  # bytes of partial results; above, contexts are not split
HEAD_WIDTHS = (64, 128, 256)  # that there are kernels for; a narrower head takes the next
TILE_ROWS, TILE_KEYS, TILE_THREADS = 16, 32, 128


class Shape(ctypes.Structure):
    """The sizes of an attention, as the struct of `kernels/attention.cu`."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("heads", "kv_heads", "width", "block_size", "table_width", "window", "split")
    )


def attend(
    launcher: Launcher,
    q: DeviceArray,
    cache: LayerCache[DeviceArray],
    batch: CudaBatch,
    may_split: bool,
) -> DeviceArray:
    """Launch the attention of a batch's queries to their sequences: [T, H, E] → [T, H E].

    `may_split`: split long contexts; then the order of sums depends on the longest of the batch.
    """
    tokens, heads, width = q.shape
    _, kv_heads, block_size, _ = cache.keys.shape
    splits = _splits(q, batch) if may_split else 1
    table_width, split = batch.block_tables.shape[1], SPLIT if splits > 1 else 0
    shape = Shape(heads, kv_heads, width, block_size, table_width, cache.window, split)
    out, partial = launcher.empty((tokens, heads * width)), None
    if splits > 1:
        partial = launcher.empty((tokens, heads, splits, width + 2), np.float32)
    head_rows = blocks_for(batch.tile_tokens * (heads // kv_heads), TILE_ROWS)
    kernel_width = next(widest for widest in HEAD_WIDTHS if width <= widest)
    integers = (batch.positions, batch.query_starts, batch.block_tables, batch.tiles)
    operands = [array.address for array in (q, cache.keys, cache.values, *integers)]
    scale = math.log2(math.e) / math.sqrt(width)
    arguments = (out.address, address_of(partial), *operands, shape, scale)
    launcher.launch(
        "attention",
        f"attention_{kernel_width}_{launcher.suffix}",
        (batch.tiles.shape[0], kv_heads * head_rows, splits),
        TILE_THREADS,
        arguments,
        shared=_shared_bytes(width),
    )
    if partial is not None:
        kernel = f"attention_merge_{launcher.suffix}"
        merged = (out.address, partial.address, batch.positions.address, splits, shape)
        launcher.launch("attention", kernel, (tokens, heads, 1), 2 * WARP, merged)
    return out


def _splits(q: DeviceArray, batch: CudaBatch) -> int:
    """Return into how many parts contexts are split."""
    splits = blocks_for(batch.longest, SPLIT)
    partial = q.size // q.shape[2] * splits * (q.shape[2] + 2) * 4 if q.size else 0
    return 1 if partial > MAX_PARTIAL else splits


def _shared_bytes(width: int) -> int:
    """Return the bytes of `Shared` in kernels/attention.cu."""
    return 4 * (TILE_ROWS * width + TILE_KEYS * (2 * width + 1) + TILE_ROWS * TILE_KEYS)
