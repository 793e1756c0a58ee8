"""Kernels are compiled when they are first asked for, and run by a team or recorded for later.

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

    def run(self, kernel: Kernel, chunks: ChunkCount, **arguments: Any) -> None:
        """Arguments by the names of the kernel's fields; arrays lie as the kernel says."""
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
        """Work written down instead of done, and where its result will be.

        Raises:
            NotRecordableError: not all of it is kernels.
            MemoryError: the arena is too small.
        """
        self._recording.program = program = Program(arena)
        try:
            return program, arena.view(work())
        finally:
            self._recording.program = None

    def refuse_to_record(self) -> None:
        """For what numpy does at once."""
        if self._recording.program is not None:
            raise NotRecordableError
