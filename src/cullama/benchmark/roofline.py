"""Tells how near passes come to the limits of the machine: reading memory, multiplying matrices.

Williams et al., "Roofline", CACM 2009. What a pass reads and computes is counted: weights once,
keys and values of each context once, products of each token. The limits are measured with numpy or
the GPU's own kernels (yardsticks.py, cuda_yardsticks.py), and on the CPU with what the model's own
weights allow beyond numpy: a small model lies in the caches, and quantised weights are multiplied
faster than float32. So a share is of the fastest that is known of the machine for this model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..cpu.backend import HostBackend
from ..cpu.threads import limit_blas
from ..engine.model_access import ModelAccess
from ..engine.trace import StepRecord
from .yardsticks import CHUNK, product_seconds, read_seconds, seconds_of

# Half a second of start-up where nothing else runs.
SECONDS = 1.0
READ_BYTES = 256 << 20  # beyond the caches of most machines
REPEATS = 3
MATRIX = 1024
MIN_READ_BYTES = 4 << 20  # of what fits the caches; less would measure calls
PRODUCT_OPERATIONS = 4e9  # of one product with the model's weights
MIN_TOKENS = 64

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


def pass_costs(access: ModelAccess[Any], limits: Limits | None) -> PassCosts:
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


class Limits(NamedTuple):
    """What the machine can do for one model."""

    read: float  # bytes a second
    products: float  # floating-point operations a second


def measure_limits(access: ModelAccess[Any]) -> Limits:
    """Measure the machine's limits with the threads, or on the GPU, that the model uses.

    On a busy machine a CPU is measured less, so that the start does not wait for it: from SECONDS
    on nothing more than once, and over the memory that was given in half of that.
    """
    ops: Any = access.ops
    if isinstance(ops, HostBackend):
        return _cpu_limits(access, time.perf_counter())
    from .cuda_yardsticks import CudaMeter

    meter = CudaMeter(ops, REPEATS)
    try:
        limits = meter.measure()
        return Limits(limits.read, limits.products)
    finally:
        meter.close()


def _cpu_limits(access: ModelAccess[Any], start: float) -> Limits:
    ops: Any = access.ops
    until, size = start + SECONDS, max(access.model.weights.bytes_read_per_token, MIN_READ_BYTES)
    memory, count = np.empty(READ_BYTES // 4, np.float32), 0
    while count < len(memory) and time.perf_counter() < start + SECONDS / 2:
        memory[count : count + CHUNK] = 1  # pages are given now: seconds where memory is short
        count += CHUNK
    memory = memory[:count]
    limit_blas(ops.thread_pool.size)
    try:
        read = memory.nbytes / min(read_seconds(memory, REPEATS, until))
        if size < memory.nbytes:  # maybe in the caches
            part = memory[: size // 4]
            read = max(read, part.nbytes / min(read_seconds(part, REPEATS, until)))
        products = 2 * MATRIX**3 / min(product_seconds(MATRIX, REPEATS, until))
    finally:
        limit_blas(1)
    return Limits(read, max(products, _own_products(access, until)))


def _own_products(access: ModelAccess[Any], until: float) -> float:
    """Return how fast a prompt is multiplied by the model's own weights, the fastest of three."""
    ops, weights = access.ops, access.model.weights
    layer, config = weights.layers[0].mlp, access.model.config
    operations = 4.0 * config.hidden_size * config.intermediate_size  # of a token
    tokens = int(min(access.token_budget, max(MIN_TOKENS, PRODUCT_OPERATIONS / operations)))
    ids = ops.upload(np.arange(tokens, dtype=np.int32) % config.vocab_size)
    x = ops.rms_norm(ops.embed(weights.embedding, ids), layer.norm)
    times = seconds_of(lambda: ops.linear(x, layer.gate_up), REPEATS, until)
    return tokens * operations / min(times)


class Roofline:
    """Follows the passes of the last second, and the fastest that there were.

    A machine can do what it has done: a second that was faster than the limits that were measured
    raises them, so that no share exceeds 1.
    """

    def __init__(self) -> None:
        self._passes: deque[StepRecord] = deque(maxlen=MAX_PASSES)
        self._fastest_read = self._fastest_products = 0.0

    def add(self, record: StepRecord) -> None:
        self._passes.append(record)

    def raised(self, costs: PassCosts) -> PassCosts:
        """Return the costs with the limits that were measured, or with what was faster since."""
        read, products = costs.read_rate, costs.product_rate
        return replace(
            costs,
            read_rate=None if read is None else max(read, self._fastest_read),
            product_rate=None if products is None else max(products, self._fastest_products),
        )

    def figures(self, costs: PassCosts) -> dict[str, Any]:
        """Return the figures of passes that only decoded, and of those with prefill, None where
        there were none in the last second before the newest pass; and the limits they are of."""
        passes = list(self._passes)
        newest = passes[-1].start if passes else 0.0
        recent = [it for it in passes if it.tokens and newest - it.start <= WINDOW_SECONDS]
        rates = {
            "decode": _rates(costs, [it for it in recent if not it.prefill_tokens]),
            "prefill": _rates(costs, [it for it in recent if it.prefill_tokens]),
        }
        for each in filter(None, rates.values()):
            self._fastest_read = max(self._fastest_read, each["bytes_per_second"])
            self._fastest_products = max(self._fastest_products, each["operations_per_second"])
        limits = self.raised(costs)
        shares = {kind: each and {**each, **_shares(each, limits)} for kind, each in rates.items()}
        return {**shares, "read_rate": limits.read_rate, "product_rate": limits.product_rate}


def _rates(costs: PassCosts, passes: list[StepRecord]) -> dict[str, Any] | None:
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
    }


def _shares(rates: dict[str, Any], limits: PassCosts) -> dict[str, float | None]:
    read, products = limits.read_rate, limits.product_rate
    return {
        "share_of_read": rates["bytes_per_second"] / read if read else None,
        "share_of_products": rates["operations_per_second"] / products if products else None,
    }
