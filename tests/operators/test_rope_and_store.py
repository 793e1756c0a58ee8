"""Norm, rotate, keep: what comes back as q, and what is found in the cache afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from reference import Floats
from subject import Memory, Subject, bare_attention, chunk_of

HEADS = [(1, 1), (3, 1), (4, 2), (5, 5), (8, 2)]  # one head, MQA, GQA, MHA, GQA
WIDTHS = [2, 6, 32, 66]


def random_angles(rng: np.random.Generator, tokens: int, width: int) -> Floats:
    return rng.uniform(-3, 3, (tokens, width // 2)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("tokens", [1, 33])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_queries_and_keys_are_turned_and_values_are_not(
    subject: Subject, rng: np.random.Generator, heads: int, kv_heads: int, width: int, tokens: int
) -> None:
    memory = Memory(subject, heads, kv_heads, width, tokens=64)
    batch = memory.batch(chunk_of(tokens, 0, [1, 0]))
    qkv = memory.random(rng, tokens)
    actual, expected = memory.rope_and_store(batch, qkv, random_angles(rng, tokens, width))
    subject.check(actual, expected)
    memory.check_attention(batch, subject.rounded(expected))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("width", [2, 6, 66])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_norms_come_before_the_turn_and_by_head(
    subject: Subject, rng: np.random.Generator, heads: int, kv_heads: int, width: int, tokens: int
) -> None:
    memory = Memory(subject, heads, kv_heads, width, tokens=32)
    batch = memory.batch(chunk_of(tokens, 0, [0]))
    qkv = subject.rounded(memory.random(rng, tokens) * rng.uniform(0.1, 9, (tokens, 1)))
    norms = (subject.rounded(rng.normal(size=width)), subject.rounded(rng.normal(size=width)))
    actual, expected = memory.rope_and_store(batch, qkv, random_angles(rng, tokens, width), norms)
    subject.check(actual, expected)
    memory.check_attention(batch, subject.rounded(expected))


@pytest.mark.parametrize("eps", [1e-6, 1.0])
def test_the_eps_of_the_norms_is_the_one_given(
    subject: Subject, rng: np.random.Generator, eps: float
) -> None:
    memory = Memory(subject)
    batch = memory.batch(chunk_of(3, 0, [0]))
    qkv, norms = memory.random(rng, 3), (np.ones(6), np.full(6, 2.0))
    actual, expected = memory.rope_and_store(batch, qkv, np.zeros((3, 3)), norms, eps)
    subject.check(actual, expected)
    memory.check_attention(batch, subject.rounded(expected))


def test_a_quarter_turn_exchanges_the_halves(subject: Subject) -> None:
    """(x, y) → (−y, x), pairs half a head apart."""
    memory = Memory(subject, heads=1, kv_heads=1, width=4)
    batch = memory.batch(chunk_of(1, 0, [0]))
    qkv = np.array([[1.0, 2.0, 3.0, 4.0] + [0.0] * 8])
    q, _ = memory.rope_and_store(batch, qkv, np.array([[np.pi / 2, 0.0]]))
    subject.check(q, np.array([[[-3.0, 2.0, 1.0, 4.0]]]))


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_magnitudes_from_tiny_to_large(
    subject: Subject, rng: np.random.Generator, magnitude: float
) -> None:
    memory = Memory(subject, heads=3, kv_heads=3, width=6)
    batch = memory.batch(chunk_of(5, 0, [3]))
    qkv = subject.rounded(rng.normal(size=(5, 54)) * magnitude)
    actual, expected = memory.rope_and_store(batch, qkv, random_angles(rng, 5, 6))
    subject.check(actual, expected)
    np.testing.assert_array_equal(memory.values_at([3], 5), qkv.reshape(5, 9, 6)[:, 6:])


def test_the_input_stays_as_it_was(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject)
    for tokens in (1, 3):
        qkv, angles = memory.random(rng, tokens), reference.cos_sin(random_angles(rng, tokens, 6))
        ones = subject.vector(np.ones(6))
        on_device = subject.activation(qkv)
        for attention in (bare_attention(), bare_attention(ones, ones)):
            batch = subject.ops.upload_batch(memory.batch(chunk_of(tokens, 0, [0])))
            cos_sin = subject.ops.upload(angles.copy())
            subject.ops.rope_and_store(on_device, attention, cos_sin, memory.cache.layers[0], batch)
            np.testing.assert_array_equal(subject.floats(on_device), qkv)
            np.testing.assert_array_equal(subject.ops.download(cos_sin), angles)


# -------------------------------------------------------------------------------------------- slots


def equal_heads(subject: Subject, blocks: int) -> Memory:
    """A memory whose values can be read back, with exactly that many blocks."""
    memory = Memory(subject, heads=2, kv_heads=2, width=4, tokens=1)
    return Memory(subject, heads=2, kv_heads=2, width=4, tokens=blocks * memory.block_size)


@pytest.mark.parametrize("blocks", [[0, 1, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0]])
def test_values_are_found_where_the_table_says(
    subject: Subject, rng: np.random.Generator, blocks: list[int]
) -> None:
    memory = equal_heads(subject, 3)
    tokens = 2 * memory.block_size + 1
    qkv = memory.random(rng, tokens)
    memory.store(memory.batch(chunk_of(tokens, 0, blocks)), qkv)
    kept = memory.values_at(blocks, tokens)
    np.testing.assert_array_equal(kept, qkv.reshape(tokens, 6, 4)[:, 4:])


def test_a_slot_of_minus_one_leaves_the_whole_cache_alone(
    subject: Subject, rng: np.random.Generator
) -> None:
    """Above all the last slot of the last block, which is where −1 would lead in Python."""
    memory = equal_heads(subject, 2)
    full = 2 * memory.block_size
    batch = memory.batch(chunk_of(full, 0, [0, 1]))
    qkv = memory.random(rng, full)
    q = memory.store(batch, qkv)
    for tokens in (1, 3):
        nowhere = memory.batch(chunk_of(tokens, 0, [0]))
        nowhere = replace(nowhere, slots=np.full(tokens, -1, np.int32))
        memory.store(nowhere, np.full((tokens, 24), np.nan))
    np.testing.assert_array_equal(memory.values_at([0, 1], full), qkv.reshape(full, 6, 4)[:, 4:])
    memory.check_attention(batch, q)


@pytest.mark.parametrize("skipped", [[0], [4], [2], [0, 4], [1, 2, 3], [0, 1, 2, 3]])
def test_tokens_beside_a_skipped_one_are_kept(
    subject: Subject, rng: np.random.Generator, skipped: list[int]
) -> None:
    memory = equal_heads(subject, 2)
    before = memory.random(rng, 5)
    batch = memory.batch(chunk_of(5, 0, [1]))
    memory.store(batch, before)
    after = memory.random(rng, 5)
    slots = batch.slots.copy()
    slots[skipped] = -1
    memory.store(replace(batch, slots=slots), after)
    after[skipped] = before[skipped]
    np.testing.assert_array_equal(memory.values_at([1], 5), after.reshape(5, 6, 4)[:, 4:])


def test_a_skipped_token_still_gets_its_query(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject)
    for slots in ([-1], [-1, 5, -1]):
        tokens = len(slots)
        batch = replace(memory.batch(chunk_of(tokens, 0, [0])), slots=np.array(slots, np.int32))
        qkv, angles = memory.random(rng, tokens), random_angles(rng, tokens, 6)
        actual, expected = memory.rope_and_store(batch, qkv, angles)
        subject.check(actual, expected)


def test_a_slot_may_be_written_again(subject: Subject, rng: np.random.Generator) -> None:
    memory = equal_heads(subject, 2)
    batch = memory.batch(chunk_of(1, memory.block_size - 1, [1]))
    for _ in range(2):
        qkv = memory.random(rng, 1)
        memory.store(batch, qkv)
        kept = memory.values_at([1], memory.block_size)
        np.testing.assert_array_equal(kept[-1], qkv.reshape(6, 4)[4:])


def test_no_tokens_are_no_tokens(subject: Subject) -> None:
    memory = Memory(subject)
    batch = memory.batch(chunk_of(0, 3, [0]))
    q, _ = memory.rope_and_store(batch, np.ones((0, 48)), np.ones((0, 3)))
    assert subject.floats(q).shape == (0, 4, 6)
