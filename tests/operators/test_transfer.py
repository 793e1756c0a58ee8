"""Across and back: what is uploaded is what is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray
from subject import Memory, Subject, chunk_of, small_config

from cullama.model.batch import Chunk, build_batch

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.uint8, np.bool_]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (97,), (3, 31), (2, 3, 5), (0,), (0, 3), (3, 0)])
def test_type_shape_and_numbers_are_kept(
    subject: Subject, rng: np.random.Generator, kind: DTypeLike, shape: tuple[int, ...]
) -> None:
    host = rng.integers(0, 2, shape).astype(kind)
    back = subject.ops.download(subject.ops.upload(host))
    assert isinstance(back, np.ndarray)
    assert back.dtype == host.dtype
    assert back.shape == host.shape
    np.testing.assert_array_equal(back, host)


def test_numbers_that_are_none_come_back(subject: Subject) -> None:
    host = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    back = subject.ops.download(subject.ops.upload(host))
    assert back.tobytes() == host.tobytes()


def views(host: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    yield host.T
    yield host[::2]
    yield host[:, 1:-1]
    yield host[::-1, ::-1]
    yield np.broadcast_to(host[0], host.shape)


def test_views_come_back_as_they_were_seen(subject: Subject, rng: np.random.Generator) -> None:
    for view in views(rng.normal(size=(5, 7)).astype(np.float32)):
        np.testing.assert_array_equal(subject.ops.download(subject.ops.upload(view)), view)


def test_a_batch_keeps_every_field(subject: Subject) -> None:
    chunks = [Chunk([5, 6, 7], 30, [4, 2], 2), Chunk([8], 0, [1], 1), Chunk([9, 10], 0, [0], 0)]
    batch = build_batch(chunks, 32)
    on_device = subject.ops.upload_batch(batch)
    for name, field in vars(batch).items():
        back = subject.ops.download(getattr(on_device, name))
        assert back.dtype == np.int32
        np.testing.assert_array_equal(back, field)


def test_a_batch_says_what_its_pieces_say() -> None:
    chunks = [Chunk([5, 6, 7], 3, [7, 2], 2), Chunk([8], 0, [1], 1), Chunk([9, 10], 4, [0, 3], 0)]
    batch = build_batch(chunks, 4)
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.positions.tolist() == [3, 4, 5, 0, 4, 5]
    assert batch.slots.tolist() == [31, 8, 9, 4, 12, 13]
    assert batch.query_starts.tolist() == [0, 3, 4, 6]
    assert batch.context_lengths.tolist() == [6, 1, 6]
    assert batch.block_tables.tolist() == [[7, 2], [1, 0], [0, 3]]
    assert batch.logit_rows.tolist() == [1, 2, 3]


def test_blocks_beyond_the_context_stay_out_of_the_table() -> None:
    batch = build_batch([Chunk([1], 3, [7, 2, 9], 1), Chunk([1], 0, [5], 1)], 4)
    assert batch.block_tables.tolist() == [[7], [5]]


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 1000])
def test_a_cache_has_room_for_what_was_asked(subject: Subject, tokens: int) -> None:
    cache = subject.ops.cache(small_config(2, 1, 4, windows=(0, 7, 0)), tokens)
    assert tokens <= cache.blocks * cache.block_size < tokens + cache.block_size
    assert [layer.window for layer in cache.layers] == [0, 7, 0]


def test_layers_of_a_cache_do_not_share(subject: Subject) -> None:
    memory = Memory(subject, heads=2, kv_heads=2, width=2, windows=(0, 0), tokens=32)
    batch = memory.batch(chunk_of(1, 0, [0]))
    memory.store(batch, np.ones((1, 12)))
    memory.store_in(1, batch, np.full((1, 12), 7.0))
    q = np.zeros((1, 2, 2))
    np.testing.assert_array_equal(subject.floats(memory.attend(batch, q, 0)), 1)
    np.testing.assert_array_equal(subject.floats(memory.attend(batch, q, 1)), 7)


def filled(subject: Subject, seed: int = 1) -> tuple[Memory, NDArray[np.float64]]:
    """A cache of five blocks and two layers, and what is in its slots: [N, (H + 2K) E]."""
    memory = five_blocks(subject)
    qkv = memory.random(np.random.default_rng(seed), 5 * memory.block_size)
    for layer in range(2):  # the other way round in the second
        memory.store_in(layer, memory.batch(everything(memory)), (-1) ** layer * qkv)
    return memory, qkv


def five_blocks(subject: Subject) -> Memory:
    size = subject.ops.cache(small_config(2, 2, 6), 1).block_size
    return Memory(subject, 2, 2, 6, windows=(0, 0), tokens=5 * size)


def everything(memory: Memory) -> Chunk:
    return chunk_of(5 * memory.block_size, 0, range(5))


def check_is_copied(
    memory: Memory, qkv: NDArray[np.float64], rng: np.random.Generator, *origins: int
) -> None:
    """Whether each block holds, in both layers, what was once in the block named for it."""
    rows = np.concatenate([np.arange(memory.block_size) + o * memory.block_size for o in origins])
    fresh = five_blocks(memory.subject)
    batch = memory.batch(everything(memory))
    q = memory.subject.rounded(rng.normal(size=(len(rows), 2, 6)))
    for layer in range(2):
        fresh.store_in(layer, batch, (-1) ** layer * qkv[rows])
        found, expected = memory.attend(batch, q, layer), fresh.attend(batch, q, layer)
        np.testing.assert_array_equal(memory.subject.floats(found), memory.subject.floats(expected))


@pytest.mark.parametrize(
    ("copies", "origins"),
    [
        ([], (0, 1, 2, 3, 4)),
        ([(0, 3)], (0, 1, 2, 0, 4)),
        ([(4, 1), (2, 0)], (2, 4, 2, 3, 4)),
        ([(2, 0), (2, 1), (2, 4)], (2, 2, 2, 3, 2)),  # one source, as for samples of one prompt
        ([(0, 1), (1, 2), (2, 3)], (0, 0, 0, 0, 4)),  # what was copied before is copied on
        ([(2, 3), (1, 2), (0, 1)], (0, 0, 1, 2, 4)),  # read before it is written over
        ([(0, 1), (2, 1)], (0, 2, 2, 3, 4)),  # the last one counts
        ([(3, 3)], (0, 1, 2, 3, 4)),
    ],
)
def test_blocks_are_copied_whole_in_all_layers_and_in_order(
    subject: Subject,
    rng: np.random.Generator,
    copies: list[tuple[int, int]],
    origins: tuple[int, ...],
) -> None:
    memory, qkv = filled(subject)
    subject.ops.copy_blocks(memory.cache, copies)
    check_is_copied(memory, qkv, rng, *origins)


def test_a_copy_goes_its_own_way(subject: Subject, rng: np.random.Generator) -> None:
    (memory, qkv), (unchanged, _) = filled(subject), filled(subject)
    subject.ops.copy_blocks(memory.cache, [(0, 3)])
    second_slot = memory.batch(chunk_of(1, 1, [3]))
    source = memory.batch(chunk_of(memory.block_size, 0, [0]))
    q = subject.rounded(rng.normal(size=(memory.block_size, 2, 6)))
    for layer in range(2):
        memory.store_in(layer, second_slot, np.zeros((1, qkv.shape[1])))
        found, expected = memory.attend(source, q, layer), unchanged.attend(source, q, layer)
        np.testing.assert_array_equal(subject.floats(found), subject.floats(expected))


def test_it_introduces_itself(subject: Subject) -> None:
    assert subject.dtype in subject.ops.description
    assert "\n" not in subject.ops.description
