"""Tells how near passes come to the limits of the machine: reading memory, multiplying matrices.

Williams et al., "Roofline", CACM 2009. What a pass reads and computes is counted: weights once,
keys and values of each context once, products of each token. The limits are measured with numpy or
the GPU's own kernels (yardsticks.py, cuda_yardsticks.py); without them there is no share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..cpu.backend import HostBackend
from ..engine.model_access import ModelAccess
from ..engine.trace import StepRecord
from .yardsticks import CpuMeter, Yardsticks

# Short: a second of start-up, and beyond the caches of most machines.
READ_BYTES = 256 << 20
REPEATS = 3
MATRIX = 1024

WINDOW_SECONDS = 1.0
MAX_PASSES = 256


@dataclass(frozen=True)
class PassCosts:
    """What a pass of the model costs, and what the machine can do."""

    weight_bytes: int  # read by each pass
    context_bytes: int  # of keys and values, read for each token of a request's context
    token_operations: float  # floating-point operations of each token, attention aside
    logits_operations: float  # of each token that is drawn
    attention_operations: float  # for each token of the context that a token attends to
    read_rate: float | None  # bytes a second; None: not measured
    product_rate: float | None  # floating-point operations a second

    def bytes_read(self, passes: Iterable[StepRecord]) -> int:
        return sum(self.weight_bytes + self.context_bytes * it.context_tokens for it in passes)

    def operations(self, passes: Iterable[StepRecord]) -> float:
        return sum(
            self.token_operations * it.tokens
            + self.logits_operations * it.drawn
            + self.attention_operations * it.attended_tokens
            for it in passes
        )

    def longest_pass(self, tokens: int, context_length: int) -> float:
        """Return the seconds that a pass of so many tokens at the end of a full context should
        take; 0 where the limits were not measured."""
        if not self.product_rate or not self.read_rate:
            return 0.0
        each = self.token_operations + self.logits_operations
        operations = tokens * (each + self.attention_operations * context_length)
        read = self.weight_bytes + self.context_bytes * context_length
        return operations / self.product_rate + read / self.read_rate


def pass_costs(access: ModelAccess[Any], limits: Yardsticks | None) -> PassCosts:
    """Return the costs of a loaded model."""
    config, cache = access.model.config, access.cache
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    head = config.vocab_size * config.hidden_size
    matrices = config.parameters - (head if config.tied else 2 * head)
    return PassCosts(
        weight_bytes=access.model.weights.bytes_read_per_token,
        context_bytes=stored // (cache.blocks * cache.block_size),
        token_operations=2.0 * matrices,
        logits_operations=2.0 * head,
        attention_operations=4.0 * config.heads * config.head_dim * config.layers,
        read_rate=None if limits is None else limits.read,
        product_rate=None if limits is None else limits.products,
    )


def measure_limits(ops: Any) -> Yardsticks:
    """Measure the machine's limits with the threads, or on the GPU, that the model uses."""
    if isinstance(ops, HostBackend):
        return CpuMeter(REPEATS, READ_BYTES, MATRIX).measure(ops.thread_pool.size)
    from .cuda_yardsticks import CudaMeter

    meter = CudaMeter(ops, REPEATS)
    try:
        return meter.measure()
    finally:
        meter.close()


class Roofline:
    """Follows the passes of the last second."""

    def __init__(self) -> None:
        self._passes: deque[StepRecord] = deque(maxlen=MAX_PASSES)

    def add(self, record: StepRecord) -> None:
        self._passes.append(record)

    def figures(self, costs: PassCosts) -> dict[str, dict[str, Any] | None]:
        """Return the figures of passes that only decoded, and of those with prefill; None where
        there were none in the last second before the newest pass."""
        passes = list(self._passes)
        newest = passes[-1].start if passes else 0.0
        recent = [it for it in passes if it.tokens and newest - it.start <= WINDOW_SECONDS]
        return {
            "decode": _figures(costs, [it for it in recent if not it.prefill_tokens]),
            "prefill": _figures(costs, [it for it in recent if it.prefill_tokens]),
        }


def _figures(costs: PassCosts, passes: list[StepRecord]) -> dict[str, Any] | None:
    seconds = sum(it.seconds for it in passes)
    if not seconds:
        return None
    read, operations = costs.bytes_read(passes), costs.operations(passes)
    return {
        "passes": len(passes),
        "tokens_per_second": sum(it.tokens for it in passes) / seconds,
        "bytes_per_second": read / seconds,
        "operations_per_second": operations / seconds,
        "operations_per_byte": operations / read,
        "share_of_read": read / seconds / costs.read_rate if costs.read_rate else None,
        "share_of_products": operations / seconds / costs.product_rate
        if costs.product_rate
        else None,
    }
