"""One benchmark: runs between two measurements of the limits, with each thread count in turn."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cpu.operators import CpuOperators
from ..cpu.threads import choose_threads, physical_cores
from ..errors import UsageError
from . import runs
from .report import Report, bytes_per_token, decode_row, prefill_row
from .yardsticks import CpuMeter, between

if TYPE_CHECKING:
    from ..llm import LLM


@dataclass(frozen=True)
class Plan:
    contexts: tuple[int, ...] = (64, 512, 2048)
    prompts: tuple[int, ...] = (512,)
    tokens: int = 48  # written at each context
    repeats: int = 5
    thread_counts: tuple[int, ...] = ()  # none: one, and every core
    speculation: int = 0  # guesses a step to be tried; 0 tries none


def benchmark(llm: LLM, plan: Plan) -> Report:
    """Measure a loaded model. It must have the machine to itself for figures that mean anything.

    Raises:
        UsageError: a context or prompt longer than the model's.
    """
    longest = max((*plan.prompts, *(context + plan.tokens for context in plan.contexts)))
    if longest >= llm.context_length:
        raise UsageError(
            f"the longest run takes {longest} tokens, expected fewer than the context of "
            f"{llm.context_length}; lower --contexts, --prefill or --tokens"
        )
    config, ops = llm.config, llm.engine.runner.ops
    assert isinstance(ops, CpuOperators)
    weight_bytes = bytes_per_token(config, ops.dtype.itemsize)
    thread_counts = _thread_counts(plan)
    limits, rows, guessing = [], [], []
    meter = CpuMeter(plan.repeats)
    for threads in thread_counts:
        before = meter.measure(threads)
        ops.use_threads(threads)
        read = [runs.prefill(llm.engine, tokens, plan.repeats) for tokens in plan.prompts]
        written = [runs.decode(llm.engine, context, plan.tokens) for context in plan.contexts]
        if plan.speculation:
            guessing += runs.guessing(
                llm.engine, plan.speculation, plan.tokens, plan.repeats, threads
            )
        limit = between(before, meter.measure(threads))
        limits.append(limit)
        rows += [prefill_row(run, limit, config) for run in read]
        rows += [decode_row(run, limit, weight_bytes) for run in written]
    return Report(
        model=llm.description,
        machine=_machine(),
        dtype=ops.dtype.name,
        weight_bytes=weight_bytes,
        yardsticks=tuple(limits),
        rows=tuple(rows),
        guessing=tuple(guessing),
    )


def _thread_counts(plan: Plan) -> list[int]:
    counts = plan.thread_counts or sorted({1, physical_cores()})
    return [choose_threads(count) for count in counts]


def _machine() -> str:
    """The processor's name and the versions that decide its speed."""
    import numpy

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {physical_cores()} cores, numpy {numpy.__version__}"
