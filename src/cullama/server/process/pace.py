"""Chooses how often the engine process tells of tokens, by how busy this process is.

Tokens that come together leave in one event, which costs little more than one token's. So the
interval is made as long as it takes to keep this process at SHARE of a processor: with few streams
nothing is put off for more than a moment, with many fast ones no client waits for longer than
MAX_INTERVAL.
"""

from __future__ import annotations

SHARE = 0.1  # of one processor, for this whole process
MAX_INTERVAL = 0.04  # seconds: 25 events a second look continuous
MIN_INTERVAL = 0.0005  # shorter ones are none
WINDOW_SECONDS = 0.1
CHANGE = 0.2  # smaller ones are not told


class PaceMeter:
    """Follows this process's CPU time; used by the thread that reads the pipe, alone."""

    def __init__(self) -> None:
        self._interval = self._told = 0.0
        self._began = self._cpu = 0.0

    def changed(self, now: float, cpu: float) -> float | None:
        """Return the interval in seconds where it should be another one than before.

        Args:
            now, cpu: of time.monotonic and time.process_time.
        """
        elapsed = now - self._began
        if elapsed < WINDOW_SECONDS:
            return None
        self._interval = next_interval(self._interval, (cpu - self._cpu) / elapsed)
        self._began, self._cpu = now, cpu
        if abs(self._interval - self._told) <= CHANGE * self._told:
            return None
        self._told = self._interval
        return self._told


def next_interval(interval: float, share: float) -> float:
    """Return the interval that would bring a process that takes `share` of a processor to SHARE."""
    # The quotient first: so that rounding makes no interval longer at a share of exactly SHARE.
    wanted = max(interval, MIN_INTERVAL) * (share / SHARE)
    return min(wanted, MAX_INTERVAL) if wanted > MIN_INTERVAL else 0.0
