"""Tells objects of a fork, which copies memory and no thread but the one that calls it.

Whatever another thread was changing or had locked at that moment stays so in the child for ever. So
locks that are listed here are taken before a fork and released after it, on both sides; what else
cannot go on is told in the child, while that has a single thread, and begins again. It keeps
nothing alive.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

Lock: TypeAlias = AbstractContextManager[Any]


class Restartable(Protocol):
    """What begins again in a forked child."""

    def after_fork(self) -> None: ...


# The process forks as a whole, and hooks of a fork cannot be taken back: so these are global.
_restartable: WeakSet[Restartable] = WeakSet()
_locks: WeakSet[Lock] = WeakSet()
_held: list[Lock] = []


def restart_after_fork(each: Restartable) -> None:
    """Have `after_fork` called in every forked child, as long as the object lives."""
    _restartable.add(each)


def hold_during_fork(lock: Lock) -> None:
    """Have forks wait until a reentrant lock is free, as long as it lives."""
    _locks.add(lock)


def _before() -> None:
    for lock in list(_locks):
        lock.__enter__()
        _held.append(lock)


def _in_parent() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)


def _in_child() -> None:
    _in_parent()
    for each in list(_restartable):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
