"""Lets one thread at a time work on the engine, in the order in which they ask.

What other threads want done meanwhile is posted: the thread that holds the lock does it before it
releases the lock; where none holds it, it is done at once. Ctrl-C is deferred while a thread holds
the lock, except where it waits or the model computes. It imports nothing of the engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from ..process.interrupts import INTERRUPTS

Job: TypeAlias = Callable[[], None]


class EngineLock:
    def __init__(self) -> None:
        self._owner: int | None = None  # the thread that holds the lock
        self._queue: deque[object] = deque()  # a ticket of each thread that waits for it
        self._jobs: deque[Job] = deque()
        # Guards owner and queue (a deque's append and popleft are atomic, so jobs need no guard);
        # notified whenever the lock is released. Reentrant: a job may be posted by the garbage
        # collector, in the middle of anything.
        self.changed = threading.Condition()

    @property
    def num_posted(self) -> int:
        """Jobs that were not yet done."""
        return len(self._jobs)

    @property
    def is_mine(self) -> bool:
        return self._owner == threading.get_ident()

    def acquire(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the lock and hold it; False, and not held, where meanwhile `unless()`.

        Called with interrupts deferred until `release`; while it waits, they are allowed.
        """
        with self.changed:
            if not unless() and (self._owner is not None or self._queue):
                ticket = object()
                self._queue.append(ticket)
                try:
                    with INTERRUPTS.allowed:
                        self.changed.wait_for(
                            lambda: unless() or (self._owner is None and self._queue[0] is ticket)
                        )
                finally:
                    self._queue.remove(ticket)
                    if self._queue and self._owner is None:
                        self.changed.notify_all()
            if unless():
                return False
            self._owner = threading.get_ident()
            return True

    def release(self) -> None:
        with self.changed:
            try:
                if self._jobs:
                    self.do_posted()
            finally:
                self._owner = None
                self.changed.notify_all()

    def post(self, job: Job) -> None:
        """Have a job done by the thread that holds the lock; at once, where none does."""
        with INTERRUPTS.deferred, self.changed:
            self._jobs.append(job)
            if self._owner is None:
                self._owner = threading.get_ident()
                self.release()

    def do_posted(self) -> None:
        """Do what was posted, for the thread that holds the lock.

        At the start of a step this is done without `changed`. What is left at `release`, or posted
        while no thread holds the lock, is done under it: a job must not wait for another thread.
        """
        while self._jobs:
            self._jobs.popleft()()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is looked at whenever the lock is released."""
        with INTERRUPTS.deferred, self.changed, INTERRUPTS.allowed:
            self.changed.wait_for(condition)
