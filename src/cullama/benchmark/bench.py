"""Run one benchmark: prefill and decode, between two measurements of the machine's limits.

On a CPU all of it is done with each thread count. The measurements themselves are in
benchmark/runs.py and benchmark/yardsticks.py; nothing is printed here.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cpu.backend import HostBackend
from ..cpu.threads import choose_threads, physical_cores
from ..errors import UsageError
from . import runs
from .report import BenchReport, decode_row, prefill_row
from .yardsticks import CpuMeter, Yardsticks, between

if TYPE_CHECKING:
    from ..llm import LLM


@dataclass(frozen=True)
class BenchPlan:
    """What to measure."""

    contexts: tuple[int, ...] = (64, 512, 2048)  # tokens, to decode after
    prompts: tuple[int, ...] = (512,)  # tokens, to prefill
    tokens: int = 48  # decoded after each context
    repeats: int = 5
    thread_counts: tuple[int, ...] = ()  # empty: one, and every core
    speculation: int = 0  # draft tokens a step, at most; 0 does not measure speculation


def benchmark(llm: LLM, plan: BenchPlan) -> BenchReport:
    """Measure a loaded model; other busy processes make the figures worthless.

    Raises:
        UsageError: a context or prompt is longer than the model's context.
    """
    longest = max((*plan.prompts, *(context + plan.tokens for context in plan.contexts)))
    if longest >= llm.context_length:
        raise UsageError(
            f"the longest run takes {longest} tokens, expected fewer than the context of "
            f"{llm.context_length}; lower --contexts, --prefill or --tokens"
        )
    with llm.engine.exclusive() as access:
        config, ops = llm.config, access.ops
        weight_bytes = access.model.weights.bytes_read_per_token
    limits, rows, speculation = [], [], []
    with _settings(ops, plan) as settings:
        for setting in settings:
            before = setting.measure()
            setting.apply()
            prefills = [runs.prefill(llm.engine, tokens, plan.repeats) for tokens in plan.prompts]
            decodes = [runs.decode(llm.engine, context, plan.tokens) for context in plan.contexts]
            if plan.speculation:
                speculation += runs.speculation(
                    llm.engine, plan.speculation, plan.tokens, plan.repeats, before.threads
                )
            limit = between(before, setting.measure())
            limits.append(limit)
            rows += [prefill_row(run, limit, config) for run in prefills]
            rows += [decode_row(run, limit, weight_bytes) for run in decodes]
    return BenchReport(
        model=llm.description,
        machine=_machine(ops),
        dtype=ops.dtype_name,
        weight_bytes=weight_bytes,
        yardsticks=tuple(limits),
        rows=tuple(rows),
        speculation=tuple(speculation),
    )


class Setting(NamedTuple):
    """One way to run the model: a number of threads, or a GPU."""

    measure: Callable[[], Yardsticks]  # the limits
    apply: Callable[[], None]


@contextmanager
def _settings(ops: Any, plan: BenchPlan) -> Iterator[list[Setting]]:
    """Yield the settings to measure with; they share the memory of one meter."""
    if isinstance(ops, HostBackend):
        on_cpu = CpuMeter(plan.repeats)
        counts = plan.thread_counts or sorted({1, physical_cores()})
        yield [
            Setting(partial(on_cpu.measure, threads), partial(ops.use_threads, threads))
            for threads in map(choose_threads, counts)
        ]
        return
    if plan.thread_counts:
        raise UsageError("thread counts are for the CPU: leave them out with a GPU")
    from .cuda_yardsticks import CudaMeter

    on_gpu = CudaMeter(ops, plan.repeats)
    try:
        yield [Setting(on_gpu.measure, lambda: None)]
    finally:
        on_gpu.close()


def _machine(ops: Any) -> str:
    """Describe the processor and the GPU, with the versions that decide their speed."""
    import numpy

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    processor = f"{name}, {physical_cores()} cores, numpy {numpy.__version__}"
    if isinstance(ops, HostBackend):
        return processor
    major, minor = ops.device.driver_version
    return f"{ops.device.name}, driver of CUDA {major}.{minor}, {processor}"
