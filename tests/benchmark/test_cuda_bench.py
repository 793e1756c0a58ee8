"""The benchmark on a GPU: the figures are all there; what they are is the GPU's affair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gpu
import pytest

from cullama import LLM
from cullama.benchmark.bench import BenchPlan, benchmark
from cullama.benchmark.cuda_yardsticks import CudaYardsticks
from cullama.errors import UsageError

pytestmark = pytest.mark.gpu

PLAN = BenchPlan(contexts=(8, 40), prompts=(20,), tokens=6, repeats=1)


@pytest.fixture
def llm(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    gpu.require()
    monkeypatch.setattr("cullama.benchmark.cuda_yardsticks.COPIED_BYTES", 1 << 14)
    monkeypatch.setattr("cullama.benchmark.cuda_yardsticks.MATRIX", 48)
    monkeypatch.setattr("cullama.benchmark.cuda_yardsticks.KERNELS", 5)
    with LLM(tiny_model, backend="cuda", dtype="float16", cache_tokens=512) as model:
        yield model


def test_limits_and_runs_are_measured(llm: LLM) -> None:
    report = benchmark(llm, PLAN)
    (limit,) = report.yardsticks
    assert isinstance(limit, CudaYardsticks)
    for figure in (limit.copy, limit.read, limit.products, limit.gap):
        assert figure > 0
    assert [row.what for row in report.rows] == ["prefill 20", "decode at 8", "decode at 40"]
    assert all(row.share > 0 and row.threads is None for row in report.rows)
    assert report.dtype == "float16"
    assert report.as_json()["yardsticks"][0]["gap"] == limit.gap


def test_the_memory_of_the_measurements_is_freed(llm: LLM) -> None:
    if gpu.IS_REAL:
        pytest.skip("counts what is allocated, which only an emulated GPU tells")
    benchmark(llm, PLAN)
    before = gpu.emulated().live_bytes()
    benchmark(llm, PLAN)
    assert gpu.emulated().live_bytes() == before


def test_thread_counts_are_for_the_cpu(llm: LLM) -> None:
    with pytest.raises(UsageError, match="thread counts are for the CPU"):
        benchmark(llm, BenchPlan(contexts=(8,), prompts=(8,), tokens=4, thread_counts=(1,)))
