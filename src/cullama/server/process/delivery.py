"""Decides when event loops hear of news: at once, or together with what comes within a few ms.

A small model makes a token in less time than it costs to send one: each costs its connection a
system call, wakes the client, and takes the processor from the model. So a sample's first token and
its end are told at once, and what comes between at most once in DELIVERY_SECONDS. Models whose
passes take longer are delivered pass by pass.
"""

from __future__ import annotations

import time

from .handle import RemoteHandle, Waiting, wake

DELIVERY_SECONDS = 0.005


class Delivery:
    """Used by the thread that reads the pipe, alone."""

    def __init__(self) -> None:
        self._now: list[Waiting] = []
        self._later: dict[RemoteHandle, None] = {}
        self._last = 0.0

    def add(self, handle: RemoteHandle, is_urgent: bool) -> None:
        """Note that there is news of a sample."""
        if is_urgent:
            self._now += handle.waiting
            self._later.pop(handle, None)
        else:
            self._later[handle] = None

    def seconds_left(self, most: float) -> float:
        """Return in how many seconds something is due, `most` at most."""
        if not self._later:
            return most
        return min(most, max(0.0, self._last + DELIVERY_SECONDS - time.monotonic()))

    def deliver(self) -> None:
        """Wake those that are due."""
        if self._later and (now := time.monotonic()) >= self._last + DELIVERY_SECONDS:
            self._last = now
            self._now += [waiting for handle in self._later for waiting in handle.waiting]
            self._later.clear()
        if self._now:
            wake(self._now)
            self._now.clear()
