"""Attention's work cut into items: every query meets every key it sees, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import compiled_cpu  # noqa: F401  (skips where there is no compiler)
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.cpu.backend import BLOCK_SIZE
from cullama.cpu.compiled.attention import SPLIT, row_tiles
from cullama.cpu.compiled.batch import TABLE_STEP, CompiledBatch, FixedBatch, Work, pack
from cullama.model.batch import Batch, Chunk, build_batch

CONTEXTS = st.integers(1, 40) | st.sampled_from([SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT, 1300])


def batch_of(*tokens_and_contexts: tuple[int, int], logits: int = 1) -> CompiledBatch:
    """(tokens, context after them) of each sequence."""
    chunks = [
        Chunk([0] * count, context - count, range(-(-context // BLOCK_SIZE)), min(logits, count))
        for count, context in tokens_and_contexts
    ]
    return pack(build_batch(chunks, BLOCK_SIZE))


def met(work: Work, batch: CompiledBatch, group: int, window: int) -> Counter[tuple[int, int]]:
    """How often each row of queries has each split that it attends to."""
    starts, contexts = batch.query_starts.tolist(), batch.context_lengths.tolist()
    found: Counter[tuple[int, int]] = Counter()
    for row, rows, first_key, sequence in work.items.tolist():
        assert first_key % SPLIT == 0
        assert starts[sequence] * group <= row
        assert row + rows <= starts[sequence + 1] * group
        for each in range(row, row + rows):
            position = contexts[sequence] - (starts[sequence + 1] - each // group)
            low = max(0, position - window + 1) if window else 0
            if low < first_key + SPLIT and first_key <= position:
                found[each, first_key // SPLIT] += 1
    return found


@given(
    sequences=st.lists(st.tuples(st.integers(0, 30), CONTEXTS), min_size=1, max_size=4),
    group=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    window=st.sampled_from([0, 1, 33, SPLIT, SPLIT + 1]),
    registers=st.sampled_from([2, 4, 8]),
)
def test_every_query_has_each_of_its_splits_once(
    sequences: list[tuple[int, int]], group: int, kv_heads: int, window: int, registers: int
) -> None:
    batch = batch_of(*((min(tokens, context), context) for tokens, context in sequences))
    sizes = row_tiles(registers)
    work = batch.work(window, group, kv_heads, sizes)
    assert batch.work(window, group, kv_heads, sizes) is work  # worked out once for all layers
    expected = Counter(
        (token * group + head, split)
        for token, position in enumerate(batch.positions.tolist())
        for head in range(group)
        for split in range((max(0, position - window + 1) if window else 0) // SPLIT,
                           position // SPLIT + 1)
    )  # fmt: skip
    assert met(work, batch, group, window) == expected
    assert {rows for _, rows, _, _ in work.items.tolist()} <= set(sizes)
    assert work.chunks.tolist() == [len(work.items) * kv_heads]
    longest = max(batch.context_lengths.tolist())
    assert work.splits == max(1, -(-longest // SPLIT))
    assert work.merged.tolist() == [len(batch.tokens) if work.splits > 1 else 0]


@pytest.mark.parametrize("registers", [1, 2, 4, 8, 32])
def test_row_tiles_have_the_sizes_that_kernels_are_built_for(registers: int) -> None:
    sizes = row_tiles(registers)
    assert sizes[-1] == 1
    assert max(sizes) <= registers
    assert list(sizes) == sorted(set(sizes), reverse=True)


def test_packing_keeps_the_fields_of_a_batch() -> None:
    plain = build_batch([Chunk([5, 6, 7], 30, [4, 2], 2), Chunk([8], 0, [1], 1)], BLOCK_SIZE)
    batch = pack(plain)
    for each in fields(Batch):
        np.testing.assert_array_equal(getattr(batch, each.name), getattr(plain, each.name))


@pytest.mark.parametrize(
    ("sequences", "logits", "is_so"),
    [
        ([(1, 5)], 1, True),
        ([(1, 1), (1, 900), (1, 33)], 1, True),
        ([(2, 5)], 1, False),
        ([(2, 5)], 2, True),
        ([(9, 900)], 9, True),
        ([(0, 5)], 0, False),
        ([(2, 5), (2, 9)], 2, False),
        ([(1, 5), (2, 9)], 1, False),
        ([(1, 5), (1, 9)], 0, False),
        ([(2, 5), (0, 9)], 2, False),  # as many tokens and logits as sequences, but not one each
        ([(0, 9), (2, 2)], 2, False),
        ([(1, 5), (0, 9)], 1, False),
    ],
)
def test_decodes_and_single_verifications_are_repeatable(
    sequences: list[tuple[int, int]], logits: int, is_so: bool
) -> None:
    assert batch_of(*sequences, logits=logits).is_repeatable == is_so


# --- a batch in one place ------------------------------------------------------------------------

SIZES = row_tiles(8)
IN_ROOM = st.integers(1, TABLE_STEP * BLOCK_SIZE)  # contexts


def addresses(batch: FixedBatch, work: Work) -> list[int]:
    arrays = [getattr(batch, each.name) for each in fields(Batch)]
    return [each.ctypes.data for each in (*arrays, work.items, work.chunks, work.merged)]


@given(
    steps=st.lists(st.tuples(*[IN_ROOM] * 3), min_size=1, max_size=5),
    window=st.sampled_from([0, 100, 600]),
)
def test_a_fixed_batch_keeps_its_addresses(steps: list[tuple[int, int, int]], window: int) -> None:
    fixed = FixedBatch(batch_of((1, 7), (1, 8), (1, 9)))
    work = fixed.work(window, 3, 2, SIZES)
    before = addresses(fixed, work)
    for contexts in steps:
        batch = batch_of(*((1, context) for context in contexts))
        assert fixed.has_room_for(batch)
        fixed.copy_from(batch)
        assert addresses(fixed, work) == before
        for name in ("tokens", "positions", "slots", "context_lengths", "query_starts"):
            np.testing.assert_array_equal(getattr(fixed, name), getattr(batch, name))
        width = batch.block_tables.shape[1]
        np.testing.assert_array_equal(fixed.block_tables[:, :width], batch.block_tables)
        fresh = batch.work(window, 3, 2, SIZES)
        np.testing.assert_array_equal(work.items[: len(fresh.items)], fresh.items)
        assert (work.chunks[0], work.merged[0]) == (fresh.chunks[0], fresh.merged[0])
        assert work.splits >= fresh.splits


def test_room_grows_by_steps() -> None:
    edge = TABLE_STEP * BLOCK_SIZE
    fixed = FixedBatch(batch_of((1, 5), (1, 5)))
    assert fixed.has_room_for(batch_of((1, 5), (1, edge)))
    assert not fixed.has_room_for(batch_of((1, 5), (1, edge + 1)))
    larger = FixedBatch(batch_of((1, 5), (1, edge + 1)))
    assert larger.has_room_for(batch_of((1, 2 * edge), (1, 5)))
    assert not larger.has_room_for(batch_of((1, 2 * edge + 1), (1, 5)))
