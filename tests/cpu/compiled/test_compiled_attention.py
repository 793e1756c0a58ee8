"""Attention and what it reads, against numpy's over the very same cache.

Slots that no context reaches are full of NaN throughout: reading one makes the output NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, in_each_instruction_set, operators
from numpy.typing import NDArray

from cullama.cpu.backend import BLOCK_SIZE
from cullama.cpu.compiled.attention import SPLIT
from cullama.cpu.operators import CpuOperators
from cullama.model.batch import Batch, Chunk, build_batch
from cullama.model.config import ModelConfig
from cullama.model.kv_cache import LayerCache
from cullama.model.layer import Attention, Norm
from cullama.model.operators import AnyOperators
from cullama.model.rope import Rope

Floats = NDArray[np.float32]

BLOCKS = 200


def config(heads: int, kv_heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=heads * width,
        intermediate_size=1,
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocab_size=1,
        context_length=8192,
        norm_eps=1e-5,
        rope=Rope(),
        windows=(0,),
    )


def numpys(dtype: str) -> CpuOperators:
    return CpuOperators(dtype, threads=1, has_tiles=False)


class Memory:
    """A layer's cache, NaN where nothing was kept, and sequences in it, in scattered blocks."""

    def __init__(
        self,
        contexts: Sequence[int],
        heads: int = 4,
        kv_heads: int = 2,
        width: int = 64,
        dtype: str = "float16",
        window: int = 0,
    ) -> None:
        self.dtype, self.heads = dtype, heads
        self.draw = np.random.default_rng([*contexts, heads, width])
        whole = numpys(dtype).cache(config(heads, kv_heads, width), BLOCKS * BLOCK_SIZE)
        self.layer: LayerCache[NDArray[Any]] = replace(whole.layers[0], window=window)
        self.layer.keys[:] = np.nan
        self.layer.values[:] = np.nan
        free = iter(self.draw.permutation(BLOCKS))
        self.contexts = list(contexts)
        self.tables = [[int(next(free)) for _ in range(-(-c // BLOCK_SIZE))] for c in contexts]
        for context, table in zip(contexts, self.tables, strict=True):
            self._fill(context, table)

    def _fill(self, context: int, table: list[int]) -> None:
        kv_heads, _, width, _ = self.layer.keys.shape
        for position in range(0, context, BLOCK_SIZE):
            used, block = min(BLOCK_SIZE, context - position), table[position // BLOCK_SIZE]
            keys, values = self.draw.standard_normal((2, kv_heads, width, used))
            self.layer.keys[:, block, :, :used] = keys
            self.layer.values[:, block, :used] = values.swapaxes(1, 2)

    def batch(self, *tokens: int) -> Batch[NDArray[Any]]:
        """The last so many of each sequence."""
        chunks = [
            Chunk([0] * count, context - count, table, 1)
            for count, context, table in zip(tokens, self.contexts, self.tables, strict=True)
        ]
        return build_batch(chunks, BLOCK_SIZE)

    def queries(self, tokens: int) -> Floats:
        width = self.layer.keys.shape[2]
        return self.draw.standard_normal((tokens, self.heads, width)).astype(np.float32)

    def check(self, name: str, *tokens: int) -> None:
        batch = self.batch(*tokens)
        q = self.queries(sum(tokens))
        found, expected = attended(name, q, self, batch), self.by_numpy(q, batch)
        assert np.isfinite(expected).all()
        apart = np.abs(found - expected)
        assert (apart <= 1e-5 * np.abs(expected) + 1e-5 * np.sqrt(np.mean(expected**2))).all()

    def by_numpy(self, q: Floats, batch: Batch[NDArray[Any]]) -> Floats:
        ops = numpys(self.dtype)
        with np.errstate(invalid="ignore"):
            return ops.attention(q, self.layer, ops.upload_batch(batch))


def attended(
    name: str, q: Floats, memory: Memory, batch: Batch[NDArray[Any]], threads: int = 1
) -> Floats:
    ops = operators(name, memory.dtype, threads)
    return ops.attention(q, memory.layer, ops.upload_batch(batch))


# --- what it computes ----------------------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("width", [16, 24, 64, 80, 128])
def test_heads_of_any_width(name: str, width: int) -> None:
    """Also those that sixteen does not divide."""
    memory = Memory([150, 1, 33], width=width)
    memory.check(name, 1, 1, 1)
    memory.check(name, 40, 1, 33)


@in_each_instruction_set
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_caches_of_other_types(name: str, dtype: str) -> None:
    memory = Memory([150, 600], dtype=dtype)
    memory.check(name, 1, 1)
    memory.check(name, 40, 3)


@in_each_instruction_set
@pytest.mark.parametrize("group", range(1, 10))
def test_any_number_of_queries_share_a_key(name: str, group: int) -> None:
    for kv_heads in (1, 3):
        memory = Memory([70], heads=group * kv_heads, kv_heads=kv_heads, width=16)
        for tokens in (1, 2, 5, 37):
            memory.check(name, tokens)


AROUND_SPLITS = [SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT, 2 * SPLIT + 1, 1500]


@in_each_instruction_set
@pytest.mark.parametrize("context", AROUND_SPLITS)
def test_contexts_around_the_edges_of_splits(name: str, context: int) -> None:
    memory = Memory([context], width=16)
    for tokens in (1, 3, 40):
        memory.check(name, tokens)


@in_each_instruction_set
@pytest.mark.parametrize("window", [1, 31, 32, 33, 127, 128, 129, 511, 512, 513, 1000])
def test_windows_of_any_size(name: str, window: int) -> None:
    memory = Memory([1100, 20, 513], width=16, window=window)
    memory.check(name, 1, 1, 1)
    memory.check(name, 130, 20, 5)


@in_each_instruction_set
def test_long_and_short_contexts_in_a_batch(name: str) -> None:
    """Some are split and some are not, and some are whole prompts."""
    memory = Memory([1500, 1, 512, 90, 513, 2], heads=9, kv_heads=3, width=16)
    memory.check(name, 1, 1, 1, 1, 1, 1)
    memory.check(name, 3, 1, 1, 90, 20, 2)
    memory.check(name, 0, 1, 0, 7, 1, 0)  # some bring nothing


# --- what it does not read -----------------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("window", [1, 40, 600])
def test_values_before_the_window_are_not_read(name: str, window: int) -> None:
    """Not even NaN, in the block that the window begins in."""
    memory = Memory([700], width=16, window=window)
    expected = memory.by_numpy(q := memory.queries(1), batch := memory.batch(1))
    for position in range(700 - window):
        block, offset = memory.tables[0][position // BLOCK_SIZE], position % BLOCK_SIZE
        memory.layer.keys[:, block, :, offset] = np.nan
        memory.layer.values[:, block, offset] = np.nan
    np.testing.assert_allclose(attended(name, q, memory, batch), expected, rtol=1e-4, atol=1e-5)


@in_each_instruction_set
@pytest.mark.parametrize("context", [40, 700])
def test_a_key_of_nan_makes_the_output_nan(name: str, context: int) -> None:
    """Of every query that sees it, and of no other."""
    memory = Memory([context], width=16)
    batch, q = memory.batch(20), memory.queries(20)
    expected = attended(name, q, memory, batch)
    position = context - 10
    block, offset = memory.tables[0][position // BLOCK_SIZE], position % BLOCK_SIZE
    memory.layer.keys[0, block, 3, offset] = np.nan
    found = attended(name, q, memory, batch)
    assert np.isnan(found[10:, :32]).all()
    np.testing.assert_array_equal(found[:10], expected[:10])
    np.testing.assert_array_equal(found[:, 32:], expected[:, 32:])  # the other key/value head


@in_each_instruction_set
def test_a_query_of_nan_makes_the_output_nan(name: str) -> None:
    memory = Memory([600, 50], width=16)
    batch, q = memory.batch(2, 2), memory.queries(4)
    expected = attended(name, q, memory, batch)
    q[1, 2, 5] = np.nan
    found = attended(name, q, memory, batch).reshape(4, 4, 16)
    assert np.isnan(found[1, 2]).all()
    found[1, 2] = expected.reshape(4, 4, 16)[1, 2]
    np.testing.assert_array_equal(found.reshape(4, -1), expected)


# --- the same bits in any company ----------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("window", [0, 100, 600])
def test_a_token_has_the_same_bits_in_any_batch(name: str, window: int) -> None:
    """Alone, in a prompt of any length, beside others, and with any number of threads."""
    memory = Memory([1300, 300, 600], heads=6, kv_heads=2, width=24, window=window)
    q = memory.queries(150)
    prompt = replace_contexts(memory, 1300)
    together = attended(name, q, prompt, prompt.batch(150))
    for tokens in (1, 2, 3, 7, 64, 149):
        part = attended(name, q[-tokens:].copy(), prompt, prompt.batch(tokens))
        np.testing.assert_array_equal(part, together[-tokens:])
    others = memory.queries(10)
    crowd = np.concatenate([q[-7:], others])
    found = attended(name, crowd, memory, memory.batch(7, 1, 9))
    np.testing.assert_array_equal(found[:7], together[-7:])
    for threads in (2, 3):
        shared = attended(name, q, prompt, prompt.batch(150), threads)
        np.testing.assert_array_equal(shared, together)


def replace_contexts(memory: Memory, *contexts: int) -> Memory:
    """The same cache with the first sequences only."""
    fewer = Memory.__new__(Memory)
    fewer.__dict__ |= memory.__dict__
    fewer.contexts, fewer.tables = list(contexts), memory.tables[: len(contexts)]
    return fewer


def test_a_token_s_attention_does_not_depend_on_later_tokens() -> None:
    memory = Memory([700], width=16)
    q = memory.queries(200)
    together = attended(NAMES[0], q, memory, memory.batch(200))
    for context in (501, 512, 513, 640, 699):
        shorter = replace_contexts(memory, context)
        index = 200 - (700 - context) - 1
        alone = attended(NAMES[0], q[index : index + 1].copy(), shorter, shorter.batch(1))
        np.testing.assert_array_equal(alone[0], together[index])


# --- rope_and_store ------------------------------------------------------------------------------


def attention_with(q_norm: Floats | None, k_norm: Floats | None) -> Attention[Any, Any]:
    nothing: Any = None
    q, k = (None if weight is None else Norm(weight, 1e-5) for weight in (q_norm, k_norm))
    return Attention(norm=nothing, qkv=nothing, q_norm=q, k_norm=k, output=nothing)


@in_each_instruction_set
@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize(
    ("width", "dtype"),
    [(16, "float16"), (24, "float16"), (64, "float16"), (64, "float32"), (64, "bfloat16"),
     (80, "float16"), (128, "float16")],
)  # fmt: skip
def test_rope_and_store_equals_numpy_s(name: str, width: int, dtype: str, is_normed: bool) -> None:
    draw = np.random.default_rng(width)
    heads, kv_heads, tokens = 6, 2, 9
    qkv = draw.standard_normal((tokens, (heads + 2 * kv_heads) * width)).astype(np.float32)
    cos_sin = Rope().table(width, 100)[draw.integers(0, 100, tokens)]
    norms = draw.uniform(0.5, 2, (2, width)).astype(np.float32) if is_normed else (None, None)
    batch = build_batch([Chunk([0] * tokens, 30, [5, 2], 1)], BLOCK_SIZE)
    slots = batch.slots.copy()
    slots[[0, 4, 8]] = -1
    batch = replace(batch, slots=slots)
    results = []
    backends: list[AnyOperators] = [numpys(dtype), operators(name, dtype)]
    for ops in backends:
        cache = ops.cache(config(heads, kv_heads, width), 8 * BLOCK_SIZE).layers[0]
        cache.keys[:], cache.values[:] = np.nan, np.nan
        on_device = ops.upload_batch(batch)
        q = ops.rope_and_store(qkv, attention_with(*norms), cos_sin, cache, on_device)
        results.append((q, cache.keys.astype(np.float32), cache.values.astype(np.float32)))
    (expected_q, expected_keys, expected_values), (q, keys, values) = results
    np.testing.assert_allclose(q, expected_q, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(values, expected_values)
    step = {"float32": 1e-5, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]  # the next number
    np.testing.assert_allclose(keys, expected_keys, rtol=step, atol=2e-6)
    assert np.isfinite(values).sum() == kv_heads * 6 * width
