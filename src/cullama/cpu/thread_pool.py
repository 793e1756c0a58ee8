"""Threads that share work with their caller: starting and stopping them, and a pool for numpy.

numpy releases Python's lock while it computes, so parts of a product or of an attention run on
several cores at once. Each part is computed as one thread would compute it alone: the numbers do
not depend on how many threads there are. Workers sleep between calls, where a BLAS's own threads
spin: a neighbour that keeps a core busy costs a share of the speed, not a multiple.

Waking a sleeping core takes 40 µs on a quiet virtual machine, and several times that on a busy one,
where a second core may read memory no faster either: only much larger work is shared.

The pool that runs compiled kernels is `jit/thread_pool.py`'s; its workers are started and stopped
here. This file does not decide how many threads there are (`threads.py`).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

from ..errors import HostMemoryError

Task: TypeAlias = Callable[[], object]

MIN_SHARED_SECONDS = 1e-3  # work that takes one thread less is not shared

Channel = TypeVar("Channel")


@dataclass(frozen=True)
class _Started(Generic[Channel]):
    process: int
    channel: Channel


class Workers(Generic[Channel]):
    """Daemon threads that run one loop: started at first use, stopped when this object is dropped.

    A fork takes no threads along, so each process starts workers of its own.
    """

    def __init__(
        self,
        count: int,
        open_channel: Callable[[], Channel],
        loop: Callable[[Channel], object],
        stop: Callable[[Channel, int], object],
    ) -> None:
        """
        Args:
            count: threads to start.
            open_channel: makes what the workers of one process listen to.
            loop: what each worker runs, until it is told to stop.
            stop: tells that many workers of a channel to stop.

        None of the functions may refer to the owner of this object, or that is never dropped.
        """
        self._count, self._open_channel, self._loop, self._stop = count, open_channel, loop, stop
        self._started: _Started[Channel] | None = None

    def channel(self) -> Channel:
        """Return the channel to this process's workers, which are started if need be.

        Two threads that call this for the first time at once may both start workers; each then
        uses the channel it was given.
        """
        started = self._started
        if started is None or started.process != os.getpid():
            started = self._started = self._start()
        return started.channel

    def _start(self) -> _Started[Channel]:
        started = _Started(os.getpid(), self._open_channel())
        try:
            for _ in range(self._count):
                threading.Thread(target=self._loop, args=[started.channel], daemon=True).start()
        except RuntimeError:  # "can't start new thread"
            raise HostMemoryError(
                f"the system lets this process start no more threads, expected {self._count}; "
                "lower threads (--threads), or raise the limit (ulimit -u, or of memory)"
            ) from None
        if self._count:
            weakref.finalize(self, _stop_in_own_process, started, self._stop, self._count)
        return started


def _stop_in_own_process(
    started: _Started[Channel], stop: Callable[[Channel, int], object], count: int
) -> None:
    if started.process == os.getpid():
        stop(started.channel, count)


class ThreadPool:
    """Runs Python functions on `size` threads, the caller's counted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._is_busy = False
        self._workers: Workers[SimpleQueue[_Future | None]] = Workers(
            size - 1, SimpleQueue, _run_worker, _stop_workers
        )

    def split(self, units: int, seconds: float) -> list[slice]:
        """Cut work of so many units up for the threads; return one piece if sharing does not pay.

        Args:
            seconds: roughly what one thread would take.
        """
        count = self.size if seconds > MIN_SHARED_SECONDS and not self._is_busy else 1
        share = max(1, -(-units // count))
        return [slice(start, min(start + share, units)) for start in range(0, units, share)]

    def execute(self, tasks: Sequence[Task]) -> None:
        """Run all tasks and return when the last is done; raise what a task raised."""
        # A task that calls this itself runs its tasks where it is: all threads are busy.
        if len(tasks) <= 1 or self.size == 1 or self._is_busy:
            for task in tasks:
                task()
            return
        try:
            self._is_busy = True
            self._share(tasks)
        finally:
            self._is_busy = False

    def _share(self, tasks: Sequence[Task]) -> None:
        queue = self._workers.channel()
        futures = [_Future(task) for task in tasks[1:]]
        for future in futures:
            queue.put(future)
        try:
            tasks[0]()
        finally:  # on an error or Ctrl-C too: workers may still write to the caller's arrays
            for future in futures:
                future.wait()


class _Future:
    """One task and its end. Each has a lock of its own, so that a wait that Ctrl-C cuts short
    leaves nothing behind for the next."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._context = copy_context()  # numpy's error settings go with the work
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        try:
            self._context.run(self._task)
        except BaseException as error:  # raised again by `wait`
            self._error = error
        finally:
            self._done.release()

    def wait(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise self._error


def _run_worker(queue: SimpleQueue[_Future | None]) -> None:
    while (future := queue.get()) is not None:
        future.run()
        del future  # a sleeping worker must not keep arrays alive


def _stop_workers(queue: SimpleQueue[_Future | None], count: int) -> None:
    for _ in range(count):
        queue.put(None)
