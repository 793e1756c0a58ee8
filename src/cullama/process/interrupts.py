"""Defers Ctrl-C while something is changed that must not be left half changed.

Python raises KeyboardInterrupt in the main thread between any two instructions: in the middle of
moving a request from one queue to another, or right after a lock was taken and before the `try`
that gives it back. Within `with INTERRUPTS.deferred:` a signal waits for the end. Within
`with INTERRUPTS.allowed:` inside of it, as around a long computation that may be cut short at any
point, it is raised at once, but only the first: the cleaning up after it is not interrupted again.

Only SIGINT is deferred, and only in the main thread, which alone gets it. A program's own handler
is called in the same way, later. Entering and leaving cost about a microsecond each.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

from .forks import restart_after_fork

# What `signal` wraps in conversions to enums, which would cost ten times as much as the rest.
_signal: Any = import_module("_signal")


class _Interrupts:
    """The process's SIGINT, of which there is one; use `INTERRUPTS`."""

    def __init__(self) -> None:
        self.deferred = _Deferred(self)
        self.allowed = _Allowed(self)
        self.owner: int | None = None  # the thread that defers; only the main thread does
        # For each `deferred` that was entered, whether interrupts are allowed in it at the moment.
        self.are_allowed: list[bool] = []
        self.is_pending = False
        self._previous: Callable[[int, FrameType | None], Any] | None = None
        self._handler = self._on_signal  # one object, to be compared
        restart_after_fork(self)

    def install(self) -> bool:
        """Take over SIGINT; False where this program handles it by no function of Python."""
        previous = _signal.getsignal(signal.SIGINT)
        if not callable(previous):
            return False
        self._previous, self.is_pending = previous, False
        try:
            _signal.signal(signal.SIGINT, self._handler)
        except ValueError:  # this interpreter is not the main one
            return False
        return True

    def restore(self) -> None:
        """Give SIGINT back, unless someone took it meanwhile, and deliver what came."""
        if _signal.getsignal(signal.SIGINT) is self._handler:
            _signal.signal(signal.SIGINT, self._previous)
        self.deliver()

    def deliver(self) -> None:
        """Let the program handle a signal that came while it was deferred."""
        if self.is_pending and self._previous is not None:
            self.is_pending = False
            self._previous(signal.SIGINT, None)

    def after_fork(self) -> None:
        """Begin again in a forked child, unless it goes on in the very code that defers."""
        if self.owner is not None and self.owner != threading.get_ident():
            self.owner, self.is_pending = None, False
            self.are_allowed.clear()
            self.restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not (self.are_allowed and self.are_allowed[-1]) or self._previous is None:
            self.is_pending = True
            return
        self.are_allowed[-1] = False  # stays so where an exception is raised now
        self._previous(number, frame)
        self.are_allowed[-1] = True


class _Deferred:
    """A context manager, which may be entered inside of itself and by any thread."""

    def __init__(self, interrupts: _Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        interrupts, thread = self._interrupts, threading.get_ident()
        if interrupts.owner != thread:
            if thread != threading.main_thread().ident or not interrupts.install():
                return
            interrupts.owner = thread  # from `install` on, no signal is raised
        interrupts.are_allowed.append(False)

    def __exit__(self, *error: object) -> None:
        interrupts = self._interrupts
        if interrupts.owner != threading.get_ident():
            return
        interrupts.are_allowed.pop()
        if not interrupts.are_allowed:
            interrupts.owner = None
            interrupts.restore()
        elif interrupts.are_allowed[-1] and interrupts.is_pending:
            interrupts.are_allowed[-1] = False
            interrupts.deliver()
            interrupts.are_allowed[-1] = True


class _Allowed:
    """A context manager within `deferred`; elsewhere it does nothing."""

    def __init__(self, interrupts: _Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        interrupts = self._interrupts
        if interrupts.owner == threading.get_ident():
            interrupts.deliver()
            interrupts.are_allowed[-1] = True

    def __exit__(self, *error: object) -> None:
        interrupts = self._interrupts
        if interrupts.owner == threading.get_ident():
            interrupts.are_allowed[-1] = False


INTERRUPTS = _Interrupts()
