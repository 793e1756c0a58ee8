"""A model's step, recorded by and by for each shape of a batch that is likely to come again.

Programs share one arena, since one of them runs at a time; logits are copied out of it.
"""

from __future__ import annotations

from typing import NamedTuple

from ...files.tensor import HostArray
from ...model.batch import Batch
from ...model.operators import Step
from ..jit.launcher import Launcher
from ..jit.program import Arena, NotRecordableError, Program
from .batch import CompiledBatch, FixedBatch

MOST_TOKENS = 64  # beyond, Python's part of a pass is small
ARENA = 4 << 20  # bytes at first


class _Recorded(NamedTuple):
    program: Program
    batch: FixedBatch
    logits: HostArray


class RecordedSteps:
    def __init__(self, launcher: Launcher, step: Step[HostArray]) -> None:
        self._launcher, self._step = launcher, step
        # By sequences, tokens and threads.
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}
        self._arena, self._most = Arena(ARENA), MOST_TOKENS

    def __call__(self, batch: Batch[HostArray]) -> HostArray:
        assert isinstance(batch, CompiledBatch)
        if not batch.comes_again or len(batch.tokens) > self._most:
            return self._step(batch)
        try:
            recorded = self._for(batch)
        except NotRecordableError:
            self._most = 0  # from now on, every pass goes operator by operator
            return self._step(batch)
        recorded.batch.take(batch)
        recorded.program.run(self._launcher.thread_pool)
        return recorded.logits.copy()

    def _for(self, batch: CompiledBatch) -> _Recorded:
        key = len(batch.context_lengths), len(batch.tokens), self._launcher.thread_pool.size
        known = self._recorded.get(key)
        if known is None or not known.batch.has_room_for(batch):
            self._recorded[key] = known = self._record(batch)
        return known

    def _record(self, batch: CompiledBatch) -> _Recorded:
        fixed = FixedBatch(batch)
        while True:
            try:
                program, logits = self._launcher.record(lambda: self._step(fixed), self._arena)
                return _Recorded(program, fixed, logits)
            except MemoryError:  # programs that were recorded keep the arena they know
                self._arena = Arena(2 * self._arena.size)
