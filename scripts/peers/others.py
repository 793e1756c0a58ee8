"""Measure the share of the processors' time that other processes take.

An engine whose threads spin while they wait for each other may become a hundred times slower beside
a busy process, so that ratios are meaningless. The times are those of Linux's /proc; on other
systems the share is 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

STAT = Path("/proc/stat")


class Others:
    """Measures the other processes; `processes` are ours, besides this one and those that ended."""

    def __init__(self, processes: Iterable[int]) -> None:
        self._processes = list(processes)
        self._tick = 1 / os.sysconf("SC_CLK_TCK") if STAT.exists() else 0.0

    def share_during(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Return the result of `work`, and the share of all processors that others took."""
        before, start = self._seconds(), time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        return result, max(0.0, self._seconds() - before) / seconds / (os.cpu_count() or 1)

    def _seconds(self) -> float:
        if not self._tick:
            return 0.0
        here = os.times()
        ours = here.user + here.system + here.children_user + here.children_system
        return _busy_ticks() * self._tick - ours - sum(map(self._seconds_of, self._processes))

    def _seconds_of(self, process: int) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]  # the 14th and 15th of all, see proc(5)
        return (int(user) + int(system)) * self._tick


def _busy_ticks() -> int:
    """Return the ticks of all processors: user, nice, system, irq, softirq, steal."""
    ticks = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:]]
    return sum(ticks[:3]) + sum(ticks[5:8])
