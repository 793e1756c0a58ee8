"""With `deterministic=True`, nothing that goes on around a text changes a bit of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cullama import LLM, SamplingParams
from cullama.benchmark.shapes import random_checkpoint
from cullama.cpu import matrix
from cullama.cpu.deterministic import GROUP, DeterministicCpuOperators
from cullama.cpu.thread_pool import ThreadPool
from cullama.model.batch import Chunk
from cullama.model.layer import Linear

PARAMS = SamplingParams(max_tokens=56, seed=3, ignore_eos=True, logprobs=3)
GREEDY = replace(PARAMS, temperature=0)


def prompts_that_begin_alike(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    prompts = [[rng.randrange(2048) for _ in range(rng.randint(1, 120))] for _ in range(8)]
    return prompts + [[*prompt[: len(prompt) // 2], 5] for prompt in prompts]


COMPILED = pytest.param(
    "cpu", marks=pytest.mark.skipif(not find_spec("llvmlite"), reason="llvmlite is not installed")
)


@pytest.fixture(params=["columns", "tiles", "rows", COMPILED])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LLM]:
    """Models whose weights lie in each of numpy's three ways, and for compiled kernels."""
    dtype, backend = "float32", "cpu" if request.param == "cpu" else "cpu:numpy"
    if request.param == "tiles":
        monkeypatch.setattr(matrix, "IN_CACHE", 0)
        monkeypatch.setattr("cullama.cpu.threads.blas_architecture", lambda: "SkylakeX")
    if request.param == "rows":
        dtype = "bfloat16"

    def make(budget: int = 512, running: int = 256, cache_tokens: int | None = None) -> LLM:
        monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
        monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", running)
        checkpoint = random_checkpoint("tinystories-656k")
        return LLM(
            checkpoint,
            backend=backend,
            dtype=dtype,
            deterministic=True,
            cache_tokens=cache_tokens,
        )

    return make


def test_a_request_gives_the_same_bits_in_any_batch(make: Callable[..., LLM]) -> None:
    prompts = prompts_that_begin_alike(seed=1)
    alone = make()
    expected = []
    for prompt in prompts:
        expected.append(alone.generate(prompt, PARAMS).logprobs)
        alone.engine.prefix_cache.clear()
    for budget, running, cache_tokens in ((512, 256, None), (40, 8, 4096), (20, 16, 500)):
        llm = make(budget, running, cache_tokens)
        for _ in range(2):  # the second time, prompts are in the cache
            assert [c.logprobs for c in llm.generate(prompts, PARAMS)] == expected
        is_small = cache_tokens == 500
        assert (llm.engine.metrics.preemptions > 0) == is_small
        assert (llm.engine.metrics.cached_tokens > 0) != is_small


def test_the_number_of_threads_does_not_change_a_bit(make: Callable[..., LLM]) -> None:
    llm, prompt = make(), prompts_that_begin_alike(seed=2)[0]
    ops: Any = llm.engine.runner.ops
    expected = llm.logits(prompt)
    ops.use_threads(3)
    np.testing.assert_array_equal(llm.logits(prompt), expected)
    assert "3 threads" in ops.description


def test_draft_tokens_do_not_change_a_bit(make: Callable[..., LLM]) -> None:
    prompt = [5, 6, 7, 8] * 8
    plain = make().generate(prompt, GREEDY)
    drafting = make()
    params = replace(GREEDY, speculation=8)
    assert drafting.generate(prompt, params).logprobs == plain.logprobs
    assert drafting.engine.metrics.draft_tokens > 0


@pytest.mark.parametrize("backend", ["cpu:numpy", COMPILED])
def test_a_row_has_the_same_logits_in_a_thousand_batches(tiny_model: Path, backend: str) -> None:
    """Of 1 to 64 sequences, at any place among them, its prompt in any number of chunks."""
    rng = random.Random(4)
    with LLM(tiny_model, backend=backend, deterministic=True) as llm:
        ids = [rng.randrange(300) for _ in range(40)]
        expected, runner, pool = llm.logits(ids), llm.engine.runner, llm.engine.prefix_cache.pool
        for _ in range(1000):
            mine = pool.allocate(2) or []
            begin = rng.randrange(39)
            if begin:
                runner.logits([Chunk(ids[:begin], 0, mine, 1)])
            end = rng.randint(begin + 1, 40)
            others = [pool.allocate(1) or [] for _ in range(rng.randrange(64))]
            chunks = [Chunk([rng.randrange(300)], 0, blocks, 1) for blocks in others]
            place = rng.randint(0, len(chunks))
            chunks.insert(place, Chunk(ids[begin:end], begin, mine, end - begin))
            logits = runner.logits(chunks)[place : place + end - begin]
            np.testing.assert_array_equal(logits, expected[begin:end])
            for blocks in (mine, *others):
                pool.release(blocks)


def test_rows_are_computed_alone_where_others_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a BLAS whose sums depend on the place of a row."""
    product = matrix.RowMatrix.product
    sizes: list[int] = []

    def nosy(weight: Any, x: matrix.Floats, thread_pool: ThreadPool) -> matrix.Floats:
        sizes.append(len(x))
        return product(weight, x, thread_pool) + np.arange(len(x), dtype=np.float32)[:, None] * 1e-6

    monkeypatch.setattr(matrix.RowMatrix, "product", nosy)
    ops = DeterministicCpuOperators("float32", threads=1, has_tiles=False)
    rng = np.random.default_rng(0)
    x = rng.random((3, 8), np.float32)
    projection: Linear[Any, matrix.Matrix] = Linear(
        matrix.RowMatrix(rng.random((5, 8), np.float32))
    )
    out = ops.linear(x, projection)
    assert sizes == [GROUP] * GROUP + [1, 1, 1]
    np.testing.assert_array_equal(
        out, np.concatenate([ops.linear(row[None], projection) for row in x])
    )
