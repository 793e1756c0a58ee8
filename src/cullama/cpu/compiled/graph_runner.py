"""Forward passes recorded once and replayed without Python: the CPU's counterpart of CUDA graphs.

A pass is recorded when a batch of its shape is first met, if that shape is likely to come again:
decoding, one token for each sequence, or one sequence verifying its draft tokens. All recordings
share one arena, since only one runs at a time; logits are copied out of it. How a program runs is
`jit/program.py`'s.
"""

from __future__ import annotations

from typing import NamedTuple

from ...files.tensor import HostArray
from ...model.operators import Forward
from ..jit.launcher import Launcher
from ..jit.program import Arena, NotRecordableError, Program
from .batch import CompiledBatch, FixedBatch

MAX_TOKENS = 64  # beyond, Python's part of a pass is small
ARENA = 4 << 20  # bytes at first


class _Graph(NamedTuple):
    program: Program
    batch: FixedBatch
    logits: HostArray


class CpuGraphRunner:
    """Runs passes, recording those that are likely to come again."""

    def __init__(self, launcher: Launcher, forward: Forward[CompiledBatch, HostArray]) -> None:
        self._launcher, self._forward = launcher, forward
        # By sequences, tokens and threads.
        self._graphs: dict[tuple[int, int, int], _Graph] = {}
        self._arena, self._max_tokens = Arena(ARENA), MAX_TOKENS

    def __call__(self, batch: CompiledBatch) -> HostArray:
        if not batch.is_repeatable or len(batch.tokens) > self._max_tokens:
            return self._forward(batch)
        try:
            graph = self._graph_for(batch)
        except NotRecordableError:
            self._max_tokens = 0  # from now on, every pass goes operator by operator
            return self._forward(batch)
        graph.batch.copy_from(batch)
        graph.program.run(self._launcher.thread_pool)
        return graph.logits.copy()

    def _graph_for(self, batch: CompiledBatch) -> _Graph:
        """Return the graph for batches of this shape, recording it where there is none with room.

        Raises:
            NotRecordableError: a layer calls an operator that is not recorded.
        """
        key = len(batch.context_lengths), len(batch.tokens), self._launcher.thread_pool.size
        graph = self._graphs.get(key)
        if graph is not None and graph.batch.has_room_for(batch):
            return graph
        fixed = FixedBatch(batch)
        while True:
            try:
                program, logits = self._launcher.record(lambda: self._forward(fixed), self._arena)
                break
            except MemoryError:  # graphs recorded so far keep the arena that they use
                self._arena = Arena(2 * self._arena.size)
        self._graphs[key] = graph = _Graph(program, fixed, logits)
        return graph
