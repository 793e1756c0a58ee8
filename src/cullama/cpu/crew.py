"""Threads that share one piece of work with the thread that asks for it.

numpy lets go of Python's lock while it computes, so parts of a product or of an attention run on
several cores at once. Each part is computed as one thread would compute it alone: the numbers do
not depend on how many threads there are. Helpers sleep between orders, where a BLAS's own threads
spin: a neighbour that keeps a core busy costs a share of the speed, not a multiple.

Waking a sleeping core takes 40 µs on a quiet virtual machine, and several times that on a busy one,
where a second core may read memory no faster either: only much larger work is shared.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeAlias

Task: TypeAlias = Callable[[], object]

WORTH_SHARING = 1e-3  # seconds


class Crew:
    """`size` threads, the caller counted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._is_busy = False
        self._process = 0  # a fork takes no threads along: helpers belong to one process
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()

    def parts(self, units: int, seconds: float) -> list[slice]:
        """Work of so many units cut up for the crew; in one piece if it is not worth sharing.

        `seconds`: what one thread would take, roughly.
        """
        count = self.size if seconds > WORTH_SHARING and not self._is_busy else 1
        share = max(1, -(-units // count))
        return [slice(start, min(start + share, units)) for start in range(0, units, share)]

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all the tasks and return when the last is done; raises what a task raised."""
        # A crew of one has no helpers; a task that asks for help does the work itself.
        if len(tasks) <= 1 or self.size == 1 or self._is_busy:
            for task in tasks:
                task()
            return
        self._is_busy = True
        try:
            self._share(tasks)
        finally:
            self._is_busy = False

    def _share(self, tasks: Sequence[Task]) -> None:
        if self._process != os.getpid():
            self._hire()
        orders = [_Order(task) for task in tasks[1:]]
        for order in orders:
            self._orders.put(order)
        try:
            tasks[0]()
        finally:  # whatever happens here, nobody writes to arrays that the caller has given up
            for order in orders:
                order.wait()

    def _hire(self) -> None:
        self._process, self._orders = os.getpid(), SimpleQueue()
        for _ in range(self.size - 1):
            threading.Thread(target=_help, args=[self._orders], daemon=True).start()
        weakref.finalize(self, _dismiss, self._orders, self.size - 1)


class _Order:
    """One task and its end. Each has a lock of its own, so that a wait that Ctrl-C cuts short
    leaves nothing behind for the next."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._context = copy_context()  # numpy's error settings go with the work
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def do(self) -> None:
        try:
            self._context.run(self._task)
        except BaseException as error:  # raised again where the work was asked for
            self._error = error
        finally:
            self._done.release()

    def wait(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise self._error


def _help(orders: SimpleQueue[_Order | None]) -> None:
    while (order := orders.get()) is not None:
        order.do()
        del order  # a helper asleep must not keep arrays alive


def _dismiss(orders: SimpleQueue[_Order | None], helpers: int) -> None:
    for _ in range(helpers):
        orders.put(None)
