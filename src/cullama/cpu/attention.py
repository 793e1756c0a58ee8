"""Paged attention in numpy: one sequence, a tile of its tokens, one layer.

It knows how the CPU lays its cache out, keys transposed within a block, so that a product with a
query runs along memory:

    keys   [K, blocks, E, block_size]        values [K, blocks, block_size, E]

Blocks of a sequence that lie next to each other are used where they are; scattered ones are
gathered first. It does not know who owns a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import HostArray
from ..model.batch import Batch
from ..model.kv_cache import LayerCache
from .thread_pool import ThreadPool

Floats: TypeAlias = NDArray[np.float32]

# Queries taken at a time: few enough that the scores of a tile stay in the processor's cache, that
# little is computed above the diagonal and that the turn of a chat gives every core a tile, many
# enough for the products to be large.
TILE = 32

# Rows that go through norms, products and activations together: what lies between the products
# stays in a core's cache, and the cores share a prompt by its rows.
FEW_ROWS = 256

# What a tile takes, roughly, to tell whether tiles are worth sharing.
TILE_SECONDS = 15e-6  # however small
PRODUCT_RATE = 40e9  # operations a second


_EVERY_ROW: Any = slice(None)


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one sequence in a batch."""

    start: int  # first row in the batch
    end: int
    context: int  # tokens in the cache once these are stored
    blocks: int | NDArray[np.int32]  # the first of a run of neighbours, or a table of blocks

    def blocks_between(self, first: int, end: int) -> slice | NDArray[np.int32]:
        """Index of this sequence's blocks first … end."""
        if isinstance(self.blocks, int):
            return slice(self.blocks + first, self.blocks + end)
        return self.blocks[first:end]


@dataclass(frozen=True)
class CpuBatch(Batch[HostArray]):
    """A batch with what the CPU works out once for all layers."""

    spans: tuple[Span, ...]
    kept: NDArray[np.intp] | int  # rows that go to the cache
    places: tuple[int, int] | tuple[HostArray, HostArray]  # their blocks, and offsets in them
    parts: tuple[tuple[slice, CpuBatch], ...] = ()  # its rows a few at a time, where there are many


def pack(batch: Batch[HostArray], block_size: int) -> CpuBatch:
    starts, contexts = batch.query_starts.tolist(), batch.context_lengths.tolist()
    spans = tuple(
        Span(
            starts[i],
            starts[i + 1],
            context,
            _run_or_table(batch.block_tables[i], context, block_size),
        )
        for i, context in enumerate(contexts)
        if starts[i] < starts[i + 1]
    )
    kept, places = _places(batch.slots, block_size)
    tokens = len(batch.tokens)
    # Slices are views where arrays of rows are copies, and take numpy a fraction of the time.
    positions: Any = batch.positions
    logit_rows = batch.logit_rows
    if len(logit_rows) == tokens:
        logit_rows = _EVERY_ROW
    if tokens == 1:
        position = int(positions[0])
        positions = slice(position, position + 1)
    whole = CpuBatch(
        batch.tokens,
        positions,
        batch.slots,
        batch.query_starts,
        batch.context_lengths,
        batch.block_tables,
        logit_rows,
        spans,
        kept,
        places,
    )
    if tokens <= FEW_ROWS:
        return whole
    rows = [slice(start, start + FEW_ROWS) for start in range(0, tokens, FEW_ROWS)]
    return replace(whole, parts=tuple((part, _part(whole, part, block_size)) for part in rows))


def _part(batch: CpuBatch, rows: slice, block_size: int) -> CpuBatch:
    """A batch that stores those rows; it is for no attention."""
    kept, places = _places(batch.slots[rows], block_size)
    return replace(batch, spans=(), kept=kept, places=places)


def _run_or_table(table: HostArray, context: int, block_size: int) -> int | NDArray[np.int32]:
    used = -(-context // block_size)
    first = int(table[0])
    if used == 1:
        return first
    table = table[:used]
    if int(table[-1]) - first != used - 1:
        return table
    return first if table.tolist() == list(range(first, first + used)) else table


def _places(slots: HostArray, block_size: int) -> tuple[Any, Any]:
    """Plain numbers where there is one token: numpy takes them several times faster."""
    if len(slots) == 1 and slots[0] >= 0:
        return 0, divmod(int(slots[0]), block_size)
    kept = np.flatnonzero(slots >= 0)
    return kept, np.divmod(slots[kept], block_size)


def store(keys: Floats, values: Floats, cache: LayerCache[HostArray], batch: CpuBatch) -> None:
    """Keep the keys and values of a layer, [T, K, E] both."""
    blocks, offsets = batch.places
    cache.keys[:, blocks, :, offsets] = keys[batch.kept]
    cache.values[:, blocks, offsets] = values.swapaxes(0, 1)[:, batch.kept]


def attend(
    q: Floats,
    cache: LayerCache[HostArray],
    batch: CpuBatch,
    thread_pool: ThreadPool,
    tile: int | None = None,
) -> Floats:
    """[T, H, E] → [T, H E]; `tile`: queries taken at a time."""
    tile = TILE if tile is None else tile
    tokens, heads, width = q.shape
    if tokens == 1:  # the commonest case: one sequence writing its next token
        return _tile(q, cache, batch.spans[0], batch.spans[0].context - 1)
    out = np.empty((tokens, heads * width), np.float32)
    tiles = [
        (span, slice(row, min(row + tile, span.end)))
        for span in batch.spans
        for row in range(span.start, span.end, tile)
    ]
    operations = sum(4 * (rows.stop - rows.start) * span.context for span, rows in tiles)
    seconds = len(tiles) * TILE_SECONDS + operations * heads * width / PRODUCT_RATE
    hands = len(thread_pool.split(len(tiles), seconds))

    def some(first: int) -> None:
        for span, rows in tiles[first::hands]:  # dealt out: later tiles look further back
            position = span.context - (span.end - rows.start)  # of the tile's first token
            out[rows] = _tile(q[rows], cache, span, position)

    thread_pool.execute([partial(some, first) for first in range(hands)])
    return out


def _tile(q: Floats, cache: LayerCache[HostArray], span: Span, position: int) -> Floats:
    """Tokens of one sequence, the first at `position`: [t, H, E] → [t, H E]."""
    tokens, _, width = q.shape
    kv_heads, _, _, block_size = cache.keys.shape
    end = position + tokens
    begin = max(0, position - cache.window + 1) if cache.window else 0  # no token sees before it
    first = begin // block_size
    index = span.blocks_between(first, -(-end // block_size))
    keys = _float32(_taken(cache.keys, index))  # [K, B, E, block_size]
    values = _float32(_taken(cache.values, index))  # [K, B, block_size, E]

    grouped = _by_kv_head(q, kv_heads) * width**-0.5  # [K, H/K t, E]
    rows, blocks = grouped.shape[1], keys.shape[1]
    scores = np.empty((kv_heads, rows, blocks, block_size), np.float32)
    np.matmul(grouped[:, None], keys, out=scores.transpose(0, 2, 1, 3))
    slots = slice(begin - first * block_size, end - first * block_size)
    scores = scores.reshape(kv_heads, rows, -1)[:, :, slots]
    if tokens > 1:
        # A view is a must here: added to a copy, the mask would be lost without a word.
        by_token = scores.reshape((kv_heads, -1, tokens, end - begin), copy=False)
        by_token += _mask(position, tokens, begin, cache.window)
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    attn_out = scores @ values.reshape(kv_heads, -1, width)[:, slots]
    attn_out /= np.add.reduce(scores, axis=-1, keepdims=True)
    return _by_token(attn_out, tokens)


def _taken(blocks: HostArray, index: slice | NDArray[np.int32]) -> HostArray:
    """Some blocks of all heads. `take` lays scattered ones out as neighbours lie; an index in
    brackets would have them by block, which the products and reshapes below would each copy."""
    return blocks[:, index] if isinstance(index, slice) else blocks.take(index, axis=1)


def _by_kv_head(q: Floats, kv_heads: int) -> Floats:
    """[t, H, E] → [K, H/K t, E]: all queries of a key/value head in one matrix."""
    tokens, _, width = q.shape
    if tokens == 1:
        return q.reshape(kv_heads, -1, width)
    grouped = q.reshape(tokens, kv_heads, -1, width).transpose(1, 2, 0, 3)
    return grouped.reshape(kv_heads, -1, width)


def _by_token(attn_out: Floats, tokens: int) -> Floats:
    """[K, H/K t, E] → [t, H E]."""
    kv_heads, _, width = attn_out.shape
    if tokens == 1:
        return attn_out.reshape(1, -1)
    return attn_out.reshape(kv_heads, -1, tokens, width).transpose(2, 0, 1, 3).reshape(tokens, -1)


def _mask(position: int, tokens: int, begin: int, window: int) -> Floats:
    """0 where a token may look, −∞ where not, [t, tokens from `begin` on]."""
    queries = np.arange(position, position + tokens)[:, None]
    keys = np.arange(begin, position + tokens)
    hidden = keys > queries
    if window:
        hidden |= keys <= queries - window
    return np.where(hidden, np.float32(-np.inf), np.float32(0))


def _float32(array: HostArray) -> Floats:
    return array if array.dtype == np.float32 else array.astype(np.float32)
