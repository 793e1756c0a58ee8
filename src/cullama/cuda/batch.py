"""Packs a step's integers on the host, to be sent in one copy and read through views on the device.

Beside what every backend's batch holds, there are the tiles that `kernels/attention.cu` works on.
Where each sequence brings one token, as in decoding, the arrays have room for a round number of
sequences and blocks, so that few sizes occur and a graph captured for one serves all that fit.
Launching kernels with them is left to the operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..files.tensor import HostArray
from ..model.batch import Batch
from .memory import DeviceArray

TILE_TOKENS = 16  # as in kernels/attention.cu
NOWHERE = -1  # a slot that stores nothing


class Bucket(NamedTuple):
    """A size of batch for which a graph is captured."""

    sequences: int
    blocks: int  # of a sequence, at most


class Sizes(NamedTuple):
    """The sizes that give the lengths of the packed integers' parts."""

    tokens: int
    sequences: int
    blocks: int
    rows: int
    tiles: int

    @property
    def lengths(self) -> dict[str, int]:
        """Return the length of each part, in the order of memory."""
        return {
            "tiles": self.tiles * 2,  # first: they are read in pairs, from an even place
            "tokens": self.tokens,
            "positions": self.tokens,
            "slots": self.tokens,
            "query_starts": self.sequences + 1,
            "context_lengths": self.sequences,
            "block_tables": self.sequences * self.blocks,
            "logit_rows": self.rows,
        }


@dataclass(frozen=True)
class CudaBatch(Batch[DeviceArray]):
    """A step's integers as `kernels/` read them; sizes are known on the host."""

    tiles: DeviceArray  # [tiles, 2] sequence, first of its tokens
    tile_tokens: int  # the most tokens in any tile
    longest: int  # the longest context
    whole: DeviceArray  # all integers as they were sent
    bucket: Bucket | None  # the size of step that it can be replayed as


class Packed(NamedTuple):
    """A batch on the host, ready to be sent."""

    integers: HostArray
    room: Sizes  # of the parts as they lie
    used: Sizes  # of what is in them
    tile_tokens: int
    longest: int
    bucket: Bucket | None


def pack(batch: Batch[HostArray]) -> Packed:
    """Pack a batch's integers into one array; its bucket says how much room each part gets."""
    counts = np.diff(batch.query_starts)
    tiles = _tiles(counts)
    sequences, blocks = batch.block_tables.shape
    used = Sizes(len(batch.tokens), sequences, blocks, len(batch.logit_rows), len(tiles))
    bucket = _bucket(used)
    room = used if bucket is None else _room(bucket)
    integers = np.zeros(sum(room.lengths.values()), np.int32)
    parts = _views(integers, room)
    if bucket is not None:
        _fill_up(parts)
    parts["block_tables"].reshape(room.sequences, room.blocks)[:sequences, :blocks] = (
        batch.block_tables
    )
    parts["tiles"][: tiles.size] = tiles.reshape(-1)
    for name in ("tokens", "positions", "slots", "query_starts", "context_lengths", "logit_rows"):
        numbers = getattr(batch, name)
        parts[name][: len(numbers)] = numbers
    longest = int(batch.context_lengths.max(initial=1))
    most = min(int(counts.max(initial=1)), TILE_TOKENS)
    return Packed(integers, room, used, most, longest, bucket)


def device_batch(packed: Packed, whole: DeviceArray) -> CudaBatch:
    """Return a batch as views of its integers on the device."""
    return _batch(
        whole, packed.room, packed.used, packed.tile_tokens, packed.longest, packed.bucket
    )


def _fill_up(parts: dict[str, HostArray]) -> None:
    """Fill unused room with sequences of one token that attend to slot 0 and store nothing.

    Their results are not read, but nothing is computed from memory that was never written.
    """
    parts["slots"][:] = NOWHERE
    parts["query_starts"][:] = np.arange(len(parts["query_starts"]))
    parts["tiles"][::2] = np.arange(len(parts["tiles"]) // 2)
    parts["context_lengths"][:] = 1


def full_bucket(bucket: Bucket, whole: DeviceArray, block_size: int) -> CudaBatch:
    """Return a batch that fills its bucket, for a graph to be captured with."""
    room = _room(bucket)
    return _batch(whole, room, room, 1, bucket.blocks * block_size, bucket)


def bucket_length(bucket: Bucket) -> int:
    """Return how many integers a batch of that size has."""
    return sum(_room(bucket).lengths.values())


def _batch(
    whole: DeviceArray,
    room: Sizes,
    used: Sizes,
    tile_tokens: int,
    longest: int,
    bucket: Bucket | None,
) -> CudaBatch:
    shapes: dict[str, tuple[int, ...]] = {
        **{name: (length,) for name, length in used.lengths.items()},
        "block_tables": (used.sequences, room.blocks),
        "tiles": (used.tiles, 2),
    }
    views, start = {}, 0
    for name, length in room.lengths.items():
        views[name] = whole.view(start, shapes[name])
        start += length
    return CudaBatch(**views, tile_tokens=tile_tokens, longest=longest, whole=whole, bucket=bucket)


def _views(integers: HostArray, sizes: Sizes) -> dict[str, HostArray]:
    views, start = {}, 0
    for name, length in sizes.lengths.items():
        views[name] = integers[start : start + length]
        start += length
    return views


def _tiles(counts: HostArray) -> HostArray:
    """Split sequences into tiles: [S] token counts → [tiles, 2] sequence, first token in it."""
    each = -(-counts // TILE_TOKENS)
    if (each == 1).all():
        tiles = np.zeros((len(counts), 2), np.int32)
        tiles[:, 0] = np.arange(len(counts))
        return tiles
    whose = np.repeat(np.arange(len(counts)), each)
    place = np.arange(len(whose)) - np.repeat(np.cumsum(each) - each, each)
    return np.stack([whose, place * TILE_TOKENS], axis=1).astype(np.int32)


def _bucket(sizes: Sizes) -> Bucket | None:
    """Return the smallest bucket that holds the batch; None unless each sequence decodes one token.

    Sequences are rounded up to 1, 2, 4, 8, 16, 24 … 64, 96, 128 …, blocks to a power of two.
    """
    is_plain = sizes.tokens == sizes.sequences == sizes.rows == sizes.tiles and sizes.tokens > 0
    if not is_plain:
        return None
    sequences = _power_of_two(sizes.sequences)
    if sequences > 8:
        step = 8 if sizes.sequences <= 64 else 32
        sequences = -(-sizes.sequences // step) * step
    return Bucket(sequences, _power_of_two(sizes.blocks))


def _room(bucket: Bucket) -> Sizes:
    each = bucket.sequences
    return Sizes(each, each, bucket.blocks, each, each)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
