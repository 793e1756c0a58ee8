"""A whole model on the CPU: what the backend does for speed must not show in the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cullama
from cullama.benchmark.shapes import random_checkpoint
from cullama.cpu import attention, matrix

PROMPT = [(7919 * i) % 2048 for i in range(600)]  # several pieces of rows and tiles of queries


@pytest.fixture(scope="module", params=["columns", "tiles"])
def llm(request: pytest.FixtureRequest) -> cullama.LLM:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tiles":
            patch.setattr(matrix, "IN_CACHE", 0)
            patch.setattr("cullama.cpu.threads.blas_architecture", lambda: "SkylakeX")
        llm = cullama.LLM(random_checkpoint("tinystories-656k"), backend="cpu:numpy", threads=1)
    layout = {"columns": matrix.ColumnMatrix, "tiles": matrix.TiledMatrix}[request.param]
    assert type(llm.engine.runner.model.weights.head.weight) is layout
    return llm


def test_the_number_of_threads_does_not_change_a_bit(llm: cullama.LLM) -> None:
    ops: Any = llm.engine.runner.ops
    alone = llm.logits(PROMPT)
    for threads in (2, 3):
        ops.use_threads(threads)
        np.testing.assert_array_equal(llm.logits(PROMPT), alone)
    ops.use_threads(1)


def test_a_prompt_a_few_rows_at_a_time_is_the_same_prompt(
    llm: cullama.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path against its slow twin: all rows through each operator together."""
    few = llm.logits(PROMPT)
    monkeypatch.setattr(attention, "ROWS_PER_CHUNK", 10_000)
    monkeypatch.setattr("cullama.cpu.operators.ROWS_PER_CHUNK", 10_000)
    monkeypatch.setattr(attention, "TILE", 1)
    together = llm.logits(PROMPT)
    assert np.abs(few - together).max() <= 1e-4 * np.abs(together).max()
