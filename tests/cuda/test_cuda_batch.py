"""How a step's integers are packed: every part where its view looks, and the tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.cuda.batch import TILE_TOKENS, Bucket, Packed, bucket_length, pack
from cullama.model.batch import Batch, Chunk, build_batch

BLOCK = 32
FIELDS = ("tokens", "positions", "slots", "query_starts", "context_lengths", "logit_rows")


def batch_of(*counts: int, start: int = 0, logits: int = 1) -> Batch[NDArray[np.int32]]:
    """Sequences that bring so many tokens each, from a position on."""
    blocks = 1 + (start + max(counts)) // BLOCK
    return build_batch(
        [
            Chunk(list(range(1, count + 1)), start, range(i * blocks, (i + 1) * blocks), logits)
            for i, count in enumerate(counts)
        ],
        BLOCK,
    )


def parts(packed: Packed) -> dict[str, NDArray[np.int32]]:
    found, start = {}, 0
    for name, length in packed.room.lengths.items():
        found[name] = packed.integers[start : start + length]
        start += length
    assert start == len(packed.integers)
    return found


def tiles_of(packed: Packed) -> list[tuple[int, int]]:
    return [(tile[0], tile[1]) for tile in parts(packed)["tiles"].reshape(-1, 2).tolist()]


@pytest.mark.parametrize("counts", [(1,), (1, 1, 1), (5,), (40, 1, 17), (1,) * 70])
def test_every_part_of_the_batch_is_packed_at_its_offset(counts: Sequence[int]) -> None:
    batch = batch_of(*counts)
    packed = pack(batch)
    found = parts(packed)
    for name in FIELDS:
        expected = getattr(batch, name)
        assert found[name][: len(expected)].tolist() == expected.tolist()
    tables = found["block_tables"].reshape(packed.room.sequences, packed.room.blocks)
    rows, width = batch.block_tables.shape
    assert tables[:rows, :width].tolist() == batch.block_tables.tolist()


@given(counts=st.lists(st.integers(1, 70), min_size=1, max_size=9))
def test_tiles_cover_every_token_once_and_in_order(counts: list[int]) -> None:
    packed = pack(batch_of(*counts))
    covered = [
        (sequence, token)
        for sequence, first in tiles_of(packed)[: packed.used.tiles]
        for token in range(first, min(first + TILE_TOKENS, counts[sequence]))
    ]
    assert covered == [(s, t) for s, count in enumerate(counts) for t in range(count)]
    assert packed.tile_tokens == min(max(counts), TILE_TOKENS)


def test_one_token_of_each_sequence_goes_into_a_bucket() -> None:
    packed = pack(batch_of(*[1] * 5, start=70))
    assert packed.bucket == Bucket(sequences=8, blocks=4)
    assert len(packed.integers) == bucket_length(packed.bucket)


def test_room_in_a_bucket_is_filled_with_sequences_that_store_nothing() -> None:
    packed = pack(batch_of(*[1] * 5, start=70))
    found = parts(packed)
    assert found["slots"][5:].tolist() == [-1] * 3
    assert found["query_starts"].tolist() == list(range(9))
    assert tiles_of(packed) == [(sequence, 0) for sequence in range(8)]
    assert found["context_lengths"][5:].tolist() == [1] * 3
    for name in ("tokens", "positions", "logit_rows"):
        assert found[name][5:].tolist() == [0] * 3
    assert found["block_tables"].reshape(8, -1)[5:].tolist() == [[0] * packed.room.blocks] * 3


@pytest.mark.parametrize(
    ("sequences", "room"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (33, 40), (65, 96), (256, 256)]
)
def test_buckets_are_few_and_not_much_too_large(sequences: int, room: int) -> None:
    bucket = pack(batch_of(*[1] * sequences)).bucket
    assert bucket is not None
    assert bucket.sequences == room


@pytest.mark.parametrize("batch", [batch_of(2), batch_of(1, 2), batch_of(1, 1, logits=0)])
def test_steps_with_prefill_or_without_logits_have_no_bucket(
    batch: Batch[NDArray[np.int32]],
) -> None:
    packed = pack(batch)
    assert packed.bucket is None
    assert packed.room == packed.used


def test_the_longest_context_is_known_on_the_host() -> None:
    assert pack(batch_of(3, 40, start=100)).longest == 140
