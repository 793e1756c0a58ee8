"""Causal attention over a paged cache, against tokens looked up one by one in a dictionary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from subject import Memory, Subject, bare_attention, chunk_of

from cullama.model.batch import Chunk

WINDOWS = (0, 1, 5, 31, 32, 33, 1000)  # one layer each; 0 sees everything
HEADS = [(1, 1), (3, 1), (4, 2), (5, 5), (8, 2)]  # one head, MQA, GQA, MHA, GQA
TILE = 128  # queries the CPU takes at a time


def scattered(rng: np.random.Generator, memory: Memory, tokens: int) -> list[int]:
    """Blocks for that many tokens, in an order of chance."""
    count = -(-tokens // memory.block_size)
    return [int(block) for block in rng.permutation(memory.cache.blocks)[:count]]


# --------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("tokens", [1, 3, 33])
@pytest.mark.parametrize("width", [2, 6, 66])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_a_prompt(
    subject: Subject, rng: np.random.Generator, heads: int, kv_heads: int, width: int, tokens: int
) -> None:
    memory = Memory(subject, heads, kv_heads, width)
    memory.step(rng, chunk_of(tokens, 0, [3, 1]))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_a_prompt_and_its_next_tokens(
    subject: Subject, rng: np.random.Generator, heads: int, kv_heads: int
) -> None:
    memory = Memory(subject, heads, kv_heads)
    memory.step(rng, chunk_of(30, 0, [7, 2]))
    for position in range(30, 35):
        memory.step(rng, chunk_of(1, position, [7, 2]))


def test_the_first_token_hears_itself(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject, heads=3, kv_heads=3)
    batch = memory.batch(chunk_of(1, 0, [5]))
    qkv = memory.random(rng, 1)
    attn_out = memory.attend(batch, memory.store(batch, qkv))
    np.testing.assert_array_equal(subject.floats(attn_out), qkv[:, 36:])


def test_an_indifferent_query_hears_the_mean(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject, heads=2, kv_heads=2)
    batch = memory.batch(chunk_of(33, 0, [5, 6]))
    qkv = memory.random(rng, 33)
    memory.store(batch, qkv)
    attn_out = memory.attend(batch, np.zeros((33, 2, 6)))
    means = np.cumsum(qkv[:, 24:], axis=0) / np.arange(1, 34)[:, None]
    subject.check(attn_out, means)


def test_a_query_finds_its_key_among_many(subject: Subject) -> None:
    """One-hot keys and a loud query: softmax without the best one taken off would overflow."""
    memory = Memory(subject, heads=1, kv_heads=1, width=64)
    tokens = 64
    keys, values = np.eye(tokens) * 64, np.arange(tokens * 64).reshape(tokens, 64) % 251.0
    batch = memory.batch(chunk_of(tokens, 0, [9, 4]))
    memory.store(batch, np.concatenate([keys, keys, values], axis=1))
    attn_out = memory.attend(batch, keys.reshape(tokens, 1, 64) * 16)  # scores of 8,192 and 0
    np.testing.assert_array_equal(subject.floats(attn_out), values)


def test_scores_far_below_zero_are_as_good_as_others(subject: Subject) -> None:
    memory = Memory(subject, heads=1, kv_heads=1, width=2)
    batch = memory.batch(chunk_of(3, 0, [0]))
    memory.store(batch, np.array([[0, 0, 512, 512, 7, 9]] * 3, np.float64))
    attn_out = memory.attend(batch, np.full((3, 1, 2), -512.0))
    subject.check(attn_out, np.array([[7.0, 9.0]] * 3))


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_values_from_tiny_to_large(
    subject: Subject, rng: np.random.Generator, magnitude: float
) -> None:
    memory = Memory(subject)
    batch = memory.batch(chunk_of(33, 0, [3, 8]))
    qkv = memory.random(rng, 33)
    qkv[:, 36:] = subject.rounded(qkv[:, 36:] * magnitude)
    memory.check_attention(batch, memory.store(batch, qkv))


def test_query_heads_share_key_heads_in_order(subject: Subject) -> None:
    """Heads 0 and 1 hear the first key/value head, 2 and 3 the second."""
    memory = Memory(subject, heads=4, kv_heads=2, width=2)
    for tokens in (1, 3):
        batch = memory.batch(chunk_of(tokens, 0, [0]))
        memory.store(batch, np.array([[0] * 12 + [1, 2, 3, 4]] * tokens, np.float64))
        attn_out = subject.floats(memory.attend(batch, np.ones((tokens, 4, 2))))
        np.testing.assert_array_equal(attn_out, [[1, 2, 1, 2, 3, 4, 3, 4]] * tokens)


# --------------------------------------------------------------------------- boundaries and windows


def around(*boundaries: int) -> Iterator[int]:
    for boundary in boundaries:
        yield from (boundary - 1, boundary, boundary + 1)


@pytest.mark.parametrize("context", sorted(set(around(32, 64, TILE, 2 * TILE))))
def test_contexts_that_end_at_a_boundary(
    subject: Subject, rng: np.random.Generator, context: int
) -> None:
    """As one prompt; as all but one token and the last; and every window with each."""
    memory = Memory(subject, heads=2, kv_heads=1, width=4, windows=WINDOWS)
    blocks = scattered(rng, memory, context + 1)
    memory.step(rng, chunk_of(context, 0, blocks))
    memory.step(rng, chunk_of(1, context, blocks))
    memory.step(rng, chunk_of(1, context - 1, blocks))


def test_decoding_across_two_blocks_in_every_window(
    subject: Subject, rng: np.random.Generator
) -> None:
    """The oldest token in sight passes every offset in a block."""
    memory = Memory(subject, heads=2, kv_heads=1, width=2, windows=WINDOWS)
    blocks = scattered(rng, memory, 100)
    memory.store(memory.batch(chunk_of(30, 0, blocks)), memory.random(rng, 30))
    for position in range(30, 99):
        memory.step(rng, chunk_of(1, position, blocks))


@pytest.mark.parametrize("start", [1, 27, 31, 32, 33, 63, 90])
@pytest.mark.parametrize("tokens", [2, 5, 32, 33, 131])
def test_a_chunk_in_the_middle_in_every_window(
    subject: Subject, rng: np.random.Generator, start: int, tokens: int
) -> None:
    memory = Memory(subject, heads=2, kv_heads=1, width=2, windows=WINDOWS)
    blocks = scattered(rng, memory, start + tokens)
    memory.store(memory.batch(chunk_of(start, 0, blocks)), memory.random(rng, start))
    memory.step(rng, chunk_of(tokens, start, blocks))


def test_a_window_of_one_is_deaf_to_others(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject, heads=2, kv_heads=2, windows=(1,))
    for tokens, start in [(1, 0), (70, 1), (1, 71)]:
        batch = memory.batch(chunk_of(tokens, start, [4, 9, 2]))
        qkv = memory.random(rng, tokens)
        attn_out = memory.attend(batch, memory.store(batch, qkv))
        np.testing.assert_array_equal(subject.floats(attn_out), qkv[:, 24:])


# --------------------------------------------------------------------------------- where blocks lie


LAYOUTS = {
    "from the start": [0, 1, 2, 3],
    "a run elsewhere": [5, 6, 7, 8],
    "backwards": [8, 7, 6, 5],
    "a run but for the last": [5, 6, 7, 1],
    "a run but for the first": [9, 2, 3, 4],
    "a run but for the middle": [5, 7, 6, 8],
    "every other": [1, 3, 5, 7],
    "at the end": [28, 29, 30, 31],
}


def test_where_the_blocks_lie_does_not_matter(subject: Subject, rng: np.random.Generator) -> None:
    windows = (0, 5, 33)
    memory = Memory(subject, heads=4, kv_heads=2, windows=windows, tokens=1024)
    qkv = memory.random(rng, 129)
    attn_out: list[list[NDArray[np.float64]]] = []
    for blocks in LAYOUTS.values():
        blocks = [*blocks, 10]
        whole = memory.batch(chunk_of(120, 0, blocks))
        memory.store(whole, qkv[:120])
        chunk = memory.batch(chunk_of(8, 120, blocks))
        memory.check_attention(chunk, q := memory.store(chunk, qkv[120:128]))
        last = memory.batch(chunk_of(1, 128, blocks))
        memory.check_attention(last, q_last := memory.store(last, qkv[128:]))
        attn_out.append(
            [subject.floats(memory.attend(chunk, q, layer)) for layer in range(len(windows))]
            + [subject.floats(memory.attend(last, q_last, layer)) for layer in range(len(windows))]
        )
    for others in attn_out[1:]:
        for first, other in zip(attn_out[0], others, strict=True):
            subject.check(subject.activation(other), first)


# ------------------------------------------------------------------------------- batches and chunks


MIXED = [  # tokens, start
    (1, 40),  # one that writes
    (35, 0),  # a prompt
    (1, 0),  # a prompt of one token
    (20, 50),  # a chunk
    (1, 31),  # the last slot of a block
    (1, 32),  # the first one of a block
    (130, 7),  # a chunk of more than a tile
]


@pytest.mark.parametrize("order", ["as listed", "backwards"])
def test_a_mixed_batch_is_each_sequence_alone(
    subject: Subject, rng: np.random.Generator, order: str
) -> None:
    memory = Memory(subject, heads=4, kv_heads=2, width=6, windows=(0, 5, 33), tokens=1024)
    sequences = MIXED if order == "as listed" else MIXED[::-1]
    free = iter([int(block) for block in rng.permutation(memory.cache.blocks)])
    chunks = []
    for tokens, start in sequences:
        blocks = [next(free) for _ in range(-(-(tokens + start) // memory.block_size))]
        if start:
            memory.store(memory.batch(chunk_of(start, 0, blocks)), memory.random(rng, start))
        chunks.append(chunk_of(tokens, start, blocks))
    batch = memory.batch(*chunks)
    q = memory.store(batch, memory.random(rng, len(batch.tokens)))
    memory.check_attention(batch, q)
    for layer in range(3):
        together = subject.floats(memory.attend(batch, q, layer))
        for one, start, end in zip(
            chunks, batch.query_starts, batch.query_starts[1:], strict=False
        ):
            alone = memory.attend(memory.batch(one), q[start:end], layer)
            subject.check(alone, together[start:end])


def test_decoding_many_at_once(subject: Subject, rng: np.random.Generator) -> None:
    memory = Memory(subject, heads=3, kv_heads=1, width=4, windows=(0, 7), tokens=2048)
    contexts = [1, 2, 31, 32, 33, 64, 65, 100, 5]
    free = iter([int(block) for block in rng.permutation(memory.cache.blocks)])
    chunks = []
    for context in contexts:
        blocks = [next(free) for _ in range(-(-context // memory.block_size))]
        if context > 1:
            earlier = memory.batch(chunk_of(context - 1, 0, blocks))
            memory.store(earlier, memory.random(rng, context - 1))
        chunks.append(chunk_of(1, context - 1, blocks))
    memory.step(rng, *chunks)


CHUNKS = [
    [150],
    [1, 149],
    [149, 1],
    [128, 22],
    [127, 1, 22],
    [31, 1, 1, 32, 33, 52],
    [1] * 9 + [141],
]


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: "+".join(map(str, chunks[:4])))
def test_how_a_prompt_is_cut_does_not_matter(
    subject: Subject, rng: np.random.Generator, chunks: list[int]
) -> None:
    memory = Memory(subject, heads=2, kv_heads=1, width=4, windows=(0, 33))
    blocks = scattered(rng, memory, 150)
    qkv = memory.random(rng, 150)
    start = 0
    for chunk in chunks:
        batch = memory.batch(chunk_of(chunk, start, blocks))
        memory.check_attention(batch, memory.store(batch, qkv[start : start + chunk]))
        start += chunk
    assert start == 150


def test_any_history_of_any_sequences(subject: Subject) -> None:
    """Sequences of chance, in chunks of chance, in blocks of chance, some of them in one batch."""

    @settings(max_examples=25)
    @given(
        seed=st.integers(0, 2**32 - 1),
        heads=st.sampled_from(HEADS),
        window=st.integers(0, 70),
        steps=st.lists(
            st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=3),
            min_size=1,
            max_size=5,
        ),
    )
    def law(
        seed: int, heads: tuple[int, int], window: int, steps: list[list[tuple[int, int]]]
    ) -> None:
        rng = np.random.default_rng(seed)
        memory = Memory(subject, *heads, width=2, windows=(window,), tokens=1024)
        order = [int(block) for block in rng.permutation(30)]
        tables, lengths = [order[i::3] for i in range(3)], [0, 0, 0]
        for step in steps:
            chunks: list[Chunk] = []
            for sequence, tokens in dict(step).items():
                chunks.append(chunk_of(tokens, lengths[sequence], tables[sequence]))
                lengths[sequence] += tokens
            memory.step(rng, *chunks)

    law()


# -------------------------------------------------------------------------- what others left behind


def poisoned(subject: Subject, poison: float, windows: tuple[int, ...] = (0, 5, 33)) -> Memory:
    """A cache whose every slot holds the poison, as sequences that have ended left it.

    A turn by 45° makes half of each key infinite where it began as large as numbers get.
    """
    memory = Memory(subject, heads=4, kv_heads=2, width=6, windows=windows, tokens=320)
    slots = memory.cache.blocks * memory.block_size
    qkv = np.full((slots, 48), poison)
    qkv[:, :36] = 3e38 if np.isinf(poison) else poison
    cos_sin = reference.cos_sin(np.full((slots, 3), np.pi / 4))
    batch = memory.batch(chunk_of(slots, 0, list(range(memory.cache.blocks))))
    for layer in memory.cache.layers:
        with np.errstate(all="ignore"):
            subject.ops.rope_and_store(
                subject.activation(qkv),
                bare_attention(),
                subject.ops.upload(cos_sin),
                layer,
                subject.ops.upload_batch(batch),
            )
    return memory


# Sums over slots that nobody looks at may warn; that they must not is the test below.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("blocks", [[0, 1, 2, 3, 4, 5], [9, 3, 7, 1, 5, 2]])
def test_what_lies_in_unused_slots_does_not_leak(
    subject: Subject, rng: np.random.Generator, poison: float, blocks: list[int]
) -> None:
    memory = poisoned(subject, poison)
    memory.step(rng, chunk_of(1, 0, blocks))
    memory.step(rng, chunk_of(2, 1, blocks))
    memory.step(rng, chunk_of(28, 3, blocks))
    for position in range(31, 35):
        memory.step(rng, chunk_of(1, position, blocks))
    memory.step(rng, chunk_of(131, 35, blocks))


@pytest.mark.parametrize("poison", [np.nan])
def test_a_batch_beside_poison_is_sound(
    subject: Subject, rng: np.random.Generator, poison: float
) -> None:
    """Short tables are padded with block 0, which holds poison here."""
    memory = poisoned(subject, poison)
    memory.step(rng, chunk_of(70, 0, [3, 9, 5]), chunk_of(1, 0, [8]), chunk_of(33, 0, [6, 2]))
    memory.step(rng, chunk_of(1, 70, [3, 9, 5]), chunk_of(1, 1, [8]), chunk_of(1, 33, [6, 2]))


def test_a_sick_neighbour_in_the_batch_stays_alone(
    subject: Subject, rng: np.random.Generator
) -> None:
    memory = Memory(subject, windows=(0, 5))
    well, sick = chunk_of(33, 0, [1, 2]), chunk_of(3, 0, [3])
    for chunks in ((well, sick), (sick, well)):
        batch = memory.batch(*chunks)
        qkv = memory.random(rng, 36)
        start = 0 if chunks[0] is well else 3
        healthy = qkv[start : start + 33].copy()
        qkv[:] = np.nan
        qkv[start : start + 33] = healthy
        q = memory.store(batch, qkv)
        for layer in range(2):
            together = subject.floats(memory.attend(batch, q, layer))[start : start + 33]
            alone = memory.attend(memory.batch(well), q[start : start + 33], layer)
            subject.check(alone, together)


@pytest.mark.parametrize("tokens", [1, 3])
def test_infinities_in_unused_slots_raise_no_warning(
    subject: Subject, rng: np.random.Generator, tokens: int
) -> None:
    memory = poisoned(subject, np.inf)
    batch = memory.batch(chunk_of(tokens, 0, [0]))
    q = memory.store(batch, memory.random(rng, tokens))
    on_device = subject.activation(q)
    for layer in memory.cache.layers:
        step = subject.ops.graph(lambda batch: subject.ops.attention(on_device, layer, batch))  # noqa: B023
        expected = reference.attention(q, memory.expected, batch, memory.block_size, layer.window)
        subject.check(step(subject.ops.upload_batch(batch)), expected)


# ------------------------------------------------------------------------------------------ nothing


def test_the_query_and_the_cache_stay_as_they_were(
    subject: Subject, rng: np.random.Generator
) -> None:
    memory = Memory(subject, windows=(0, 5))
    for one in (chunk_of(33, 0, [3, 1]), chunk_of(1, 33, [3, 1])):
        batch = memory.batch(one)
        q = memory.store(batch, memory.random(rng, len(batch.tokens)))
        on_device = subject.activation(q)
        for layer in memory.cache.layers:
            uploaded = subject.ops.upload_batch(batch)
            first = subject.floats(subject.ops.attention(on_device, layer, uploaded)).copy()
            again = subject.floats(subject.ops.attention(on_device, layer, uploaded))
            np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(subject.floats(on_device), q)


def test_no_tokens_are_no_tokens(subject: Subject) -> None:
    memory = Memory(subject)
    batch = memory.batch(chunk_of(0, 3, [0]))
    assert subject.floats(memory.attend(batch, np.ones((0, 4, 6)))).shape == (0, 24)


def test_a_sequence_that_brings_nothing_disturbs_nobody(
    subject: Subject, rng: np.random.Generator
) -> None:
    memory = Memory(subject)
    memory.store(memory.batch(chunk_of(5, 0, [3])), memory.random(rng, 5))
    memory.step(
        rng, chunk_of(0, 5, [3]), chunk_of(2, 0, [4]), chunk_of(0, 5, [3]), chunk_of(1, 5, [3])
    )


def test_a_lone_token_beside_a_sequence_that_brings_nothing(
    subject: Subject, rng: np.random.Generator
) -> None:
    memory = Memory(subject)
    memory.store(memory.batch(chunk_of(5, 0, [3])), memory.random(rng, 5))
    memory.step(rng, chunk_of(0, 5, [3]), chunk_of(1, 0, [4]))
