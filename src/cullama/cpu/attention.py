"""Paged attention in numpy, and a batch as the numpy backend reads it.

The cache's layout is the CPU's, with keys transposed within a block, so that a product with a query
runs along memory:

    keys   [K, blocks, E, block_size]        values [K, blocks, block_size, E]

Blocks of a sequence that are neighbours in memory are used where they are; scattered ones are
copied together first. Which sequence owns a block is not known here.
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
ROWS_PER_CHUNK = 256

# What a tile takes, roughly, to decide whether tiles are worth sharing.
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


@dataclass(frozen=True)
class CpuBatch(Batch[HostArray]):
    """A batch with what the CPU computes once for all layers."""

    spans: tuple[Span, ...]
    stored_rows: NDArray[np.intp] | int  # those with a slot
    places: tuple[int, int] | tuple[HostArray, HostArray]  # their blocks, and offsets in them
    parts: tuple[tuple[slice, CpuBatch], ...] = ()  # its rows a few at a time, where there are many


def pack(batch: Batch[HostArray], block_size: int) -> CpuBatch:
    starts, contexts = batch.query_starts.tolist(), batch.context_lengths.tolist()
    spans = []
    for i, context in enumerate(contexts):
        if starts[i] < starts[i + 1]:
            blocks = _run_or_table(batch.block_tables[i], context, block_size)
            spans.append(Span(starts[i], starts[i + 1], context, blocks))
    stored_rows, places = _places(batch.slots, block_size)
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
        tuple(spans),
        stored_rows,
        places,
    )
    if tokens <= ROWS_PER_CHUNK:
        return whole
    rows = [slice(start, start + ROWS_PER_CHUNK) for start in range(0, tokens, ROWS_PER_CHUNK)]
    return replace(whole, parts=tuple((part, _part(whole, part, block_size)) for part in rows))


def _part(batch: CpuBatch, rows: slice, block_size: int) -> CpuBatch:
    """Return a batch that stores these rows' keys and values; attention takes the whole batch."""
    stored_rows, places = _places(batch.slots[rows], block_size)
    return replace(batch, spans=(), stored_rows=stored_rows, places=places)


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
    rows = np.flatnonzero(slots >= 0)
    return rows, np.divmod(slots[rows], block_size)


def store(keys: Floats, values: Floats, cache: LayerCache[HostArray], batch: CpuBatch) -> None:
    """Store the keys and values of a layer, [T, K, E] both."""
    blocks, offsets = batch.places
    cache.keys[:, blocks, :, offsets] = keys[batch.stored_rows]
    cache.values[:, blocks, offsets] = values.swapaxes(0, 1)[:, batch.stored_rows]


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
    if tokens == 1:  # the commonest case: one sequence decodes its next token
        return _tile(q, cache, batch.spans[0], batch.spans[0].context - 1)
    out = np.empty((tokens, heads * width), np.float32)
    tiles = [
        (span, slice(row, min(row + tile, span.end)))
        for span in batch.spans
        for row in range(span.start, span.end, tile)
    ]
    operations = sum(4 * (rows.stop - rows.start) * span.context for span, rows in tiles)
    seconds = len(tiles) * TILE_SECONDS + operations * heads * width / PRODUCT_RATE
    threads = len(thread_pool.split(len(tiles), seconds))

    def attend_every(first: int) -> None:
        for span, rows in tiles[first::threads]:  # dealt out: later tiles look further back
            position = span.context - (span.end - rows.start)  # of the tile's first token
            out[rows] = _tile(q[rows], cache, span, position)

    thread_pool.execute([partial(attend_every, first) for first in range(threads)])
    return out


def _tile(q: Floats, cache: LayerCache[HostArray], span: Span, position: int) -> Floats:
    """Tokens of one sequence, the first at `position`: [t, H, E] → [t, H E]."""
    tokens, _, width = q.shape
    kv_heads, _, _, block_size = cache.keys.shape
    end = position + tokens
    begin = max(0, position - cache.window + 1) if cache.window else 0  # no token sees before it
    first = begin // block_size
    blocks = slice(first, -(-end // block_size))  # of the sequence
    keys = _blocks_of(span, cache.keys, blocks)  # [K, B, E, block_size]
    values = _blocks_of(span, cache.values, blocks)  # [K, B, block_size, E]

    if tokens > 1:  # all queries of a key/value head in one matrix
        q = q.reshape(tokens, kv_heads, -1, width).transpose(1, 2, 0, 3)
    grouped = q.reshape(kv_heads, -1, width) * width**-0.5  # [K, H/K t, E]
    rows = grouped.shape[1]
    scores = np.empty((kv_heads, rows, keys.shape[1], block_size), np.float32)
    np.matmul(grouped[:, None], keys, out=scores.transpose(0, 2, 1, 3))
    slots = slice(begin - first * block_size, end - first * block_size)
    scores = scores.reshape(kv_heads, rows, -1)[:, :, slots]
    if tokens > 1:
        # This must be a view: added to a copy, the mask would be lost silently.
        by_token = scores.reshape((kv_heads, -1, tokens, end - begin), copy=False)
        by_token += _mask(position, tokens, begin, cache.window)
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    attn_out = scores @ values.reshape(kv_heads, -1, width)[:, slots]
    attn_out /= np.add.reduce(scores, axis=-1, keepdims=True)
    if tokens > 1:
        attn_out = attn_out.reshape(kv_heads, -1, tokens, width).transpose(2, 0, 1, 3)
    return attn_out.reshape(tokens, -1)


def _blocks_of(span: Span, cached: HostArray, blocks: slice) -> Floats:
    """Some blocks of a sequence, of all heads, in float32."""
    if isinstance(span.blocks, int):
        array = cached[:, span.blocks + blocks.start : span.blocks + blocks.stop]
    else:
        # `take` lays scattered blocks out as neighbours lie; an index in brackets would have them
        # by block, which the products and reshapes that follow would each copy.
        array = cached.take(span.blocks[blocks], axis=1)
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _mask(position: int, tokens: int, begin: int, window: int) -> Floats:
    """0 where a token may look, −∞ where not, [t, tokens from `begin` on]."""
    queries = np.arange(position, position + tokens)[:, None]
    keys = np.arange(begin, position + tokens)
    hidden = keys > queries
    if window:
        hidden |= keys <= queries - window
    return np.where(hidden, np.float32(-np.inf), np.float32(0))
