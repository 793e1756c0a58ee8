"""Launches kernels: compiles them at first use, and runs them at once or records them.

While a thread records, its kernels go to a program and its arrays come from the program's arena;
other threads go on computing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...files.tensor import HostArray
from ...process.interrupts import INTERRUPTS
from .compiler import JIT, Kernel
from .program import Arena, ChunkCount, NotRecordableError, Program
from .thread_pool import KernelThreadPool


class _Recording(threading.local):
    program: Program | None = None


class Launcher:
    def __init__(self, jit: JIT) -> None:
        self.jit = jit
        self.thread_pool = KernelThreadPool(jit, 1)
        self._recording = _Recording()

    def after_fork(self) -> None:
        """Begin again in a forked child, with workers of its own and no recording."""
        self.thread_pool = KernelThreadPool(self.jit, self.thread_pool.size)
        self._recording = _Recording()

    def run(self, kernel: Kernel, chunks: ChunkCount, **arguments: Any) -> None:
        """Run or record a kernel. Arguments are named as its fields; arrays must be laid out as
        the kernel says."""
        compiled = self.jit.compile(kernel)
        recorded = self._recording.program
        program = Program() if recorded is None else recorded
        program.add(compiled, chunks, arguments)
        if recorded is None:
            program.run(self.thread_pool)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> HostArray:
        program = self._recording.program
        if program is None or program.arena is None:
            return np.empty(shape, dtype)
        return program.arena.empty(shape, dtype)

    def record(self, work: Callable[[], HostArray], arena: Arena) -> tuple[Program, HostArray]:
        """Record what `work` launches instead of running it; return the program and its result's
        place in the arena.

        Raises:
            NotRecordableError: it computes something without a kernel.
            MemoryError: the arena is too small.
        """
        # Ctrl-C waits: left half done, later passes would be recorded instead of run.
        with INTERRUPTS.deferred:
            self._recording.program = program = Program(arena)
            try:
                return program, arena.view(work())
            finally:
                self._recording.program = None

    def refuse_to_record(self) -> None:
        """Raise NotRecordableError while recording: numpy is about to compute at once."""
        if self._recording.program is not None:
            raise NotRecordableError
