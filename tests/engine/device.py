"""A device that computes by itself: the CPU's operators in a thread of their own, in order.

Its numbers do not depend on who is in a batch, so whatever differs is the engine's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cullama.cpu.deterministic import DeterministicCpuOperators
from cullama.errors import NumericalError
from cullama.files.tensor import HostArray
from cullama.model.kv_cache import KVCache
from cullama.sampling.draw import Draw, Drawn
from cullama.sampling.sampler import sample


class Device(DeterministicCpuOperators):
    is_asynchronous = True

    def __init__(self) -> None:
        super().__init__("float32", threads=1, has_tiles=False)
        self._queue = ThreadPoolExecutor(1)
        self.before_pass: Callable[[Any], None] = lambda batch: None  # in the device's thread

    def graph(self, step: Any) -> Any:
        compute = super().graph(step)

        def in_turn(batch: Any) -> HostArray:
            self.before_pass(batch)
            return compute(batch)

        return lambda batch: self._queue.submit(in_turn, batch)

    def sample(
        self, logits: Any, draws: Sequence[Draw]
    ) -> Callable[[], list[Drawn | NumericalError]]:
        return self._queue.submit(lambda: sample(logits.result(), draws)).result

    def download(self, array: Any) -> HostArray:
        return array.result() if isinstance(array, Future) else array

    def copy_blocks(self, cache: KVCache[HostArray], copies: Sequence[tuple[int, int]]) -> None:
        self._queue.submit(super().copy_blocks, cache, list(copies))
