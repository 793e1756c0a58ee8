"""Packs a batch for compiled kernels: its integers, and the work of attention cut into items.

An item is a few rows of one sequence's queries and one split of its keys. A `FixedBatch` keeps all
this in one place, so that a recorded pass finds the next step's where the last one's was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...files.tensor import HostArray
from ...model.batch import Batch
from ..backend import BLOCK_SIZE
from .attention import SPLIT

Integers = NDArray[np.int64]

# Rows of the block table that a recorded pass has room for grow by so many blocks.
TABLE_STEP = 64


@dataclass
class Work:
    """The work items of attention, for all layers with the same window."""

    items: Integers  # [n, 4], as `attention.ITEM` has them
    chunks: Integers  # [1]: n · K
    merged: Integers  # [1]: tokens to be merged from splits
    splits: int  # that partial results need room for
    find: Callable[[Batch[HostArray]], Work]  # returns the items of another batch


@dataclass(frozen=True)
class CompiledBatch(Batch[HostArray]):
    _work: dict[int, Work] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool:
        """Whether batches of its shape are likely to follow.

        They do in decoding, with one token for each sequence, or one sequence with draft tokens,
        and logits of every token: the numbers of sequences and tokens then determine the shape.
        """
        sequences, tokens = len(self.context_lengths), len(self.tokens)
        if not 0 < tokens == len(self.logit_rows):
            return False
        if sequences == 1:
            return True
        starts = self.query_starts
        return sequences == tokens and bool((starts[1:] - starts[:-1] == 1).all())

    def work(self, window: int, group: int, kv_heads: int, sizes: tuple[int, ...]) -> Work:
        """`group`: query heads to a key/value head; `sizes`: rows an item may have."""
        if window not in self._work:
            self._work[window] = _work(self, window, group, kv_heads, sizes)
        return self._work[window]


def pack(batch: Batch[HostArray]) -> CompiledBatch:
    return CompiledBatch(**{each.name: getattr(batch, each.name) for each in fields(batch)})


def _work(
    batch: Batch[HostArray], window: int, group: int, kv_heads: int, sizes: tuple[int, ...]
) -> Work:
    starts, contexts = batch.query_starts.tolist(), batch.context_lengths.tolist()
    items: list[tuple[int, int, int, int]] = []
    splits = 1
    for sequence, context in enumerate(contexts):
        first, end = starts[sequence] * group, starts[sequence + 1] * group
        begin = context - (end - first) // group  # position of the first token
        splits = max(splits, -(-context // SPLIT))
        for row, rows in _tiles(first, end, sizes):
            lowest = begin + (row - first) // group
            highest = begin + (row + rows - 1 - first) // group
            low = max(0, lowest - window + 1) if window else 0
            for split in range(low // SPLIT, highest // SPLIT + 1):
                items.append((row, rows, split * SPLIT, sequence))
    items.reverse()  # later rows look further back: the large shares first
    return Work(
        np.array(items, np.int64).reshape(-1, 4),
        np.array([len(items) * kv_heads], np.int64),
        np.array([len(batch.tokens) if splits > 1 else 0], np.int64),
        splits,
        partial(_work, window=window, group=group, kv_heads=kv_heads, sizes=sizes),
    )


def _tiles(first: int, end: int, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first row, rows), as large as may be."""
    tiles, row = [], first
    while row < end:
        rows = next(size for size in sizes if size <= end - row)
        tiles.append((row, rows))
        row += rows
    return tiles


class FixedBatch(CompiledBatch):
    """Batches of one shape, one after the other at addresses that stay."""

    def __init__(self, batch: CompiledBatch) -> None:
        width = -(-batch.block_tables.shape[1] // TABLE_STEP) * TABLE_STEP
        arrays = {each.name: getattr(batch, each.name).copy() for each in fields(Batch)}
        arrays["block_tables"] = np.zeros((len(batch.block_tables), width), np.int32)
        super().__init__(**arrays)

    def has_room_for(self, batch: CompiledBatch) -> bool:
        return batch.block_tables.shape[1] <= self.block_tables.shape[1]

    def work(self, window: int, group: int, kv_heads: int, sizes: tuple[int, ...]) -> Work:
        """Return work with room for the longest contexts that fit the block table."""
        if window not in self._work:
            splits = -(-self.block_tables.shape[1] * BLOCK_SIZE // SPLIT)
            rows = len(self.tokens) * group
            self._work[window] = Work(
                np.zeros((rows * splits, 4), np.int64),
                np.zeros(1, np.int64),
                np.zeros(1, np.int64),
                splits,
                partial(_work, window=window, group=group, kv_heads=kv_heads, sizes=sizes),
            )
        return self._work[window]

    def copy_from(self, batch: CompiledBatch) -> None:
        for name in ("tokens", "positions", "slots", "context_lengths"):
            getattr(self, name)[:] = getattr(batch, name)
        self.block_tables[:, : batch.block_tables.shape[1]] = batch.block_tables
        for work in self._work.values():
            found = work.find(batch)
            work.items[: len(found.items)] = found.items
            work.chunks[:], work.merged[:] = found.chunks, found.merged
