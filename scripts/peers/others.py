"""How much of the processors goes to anyone else: neighbours spoil a figure, and not all alike.

An engine whose threads wait for each other by spinning may become a hundred times slower beside a
busy process, so that a ratio taken then says nothing. It knows the accounts that Linux keeps, in
/proc; other systems' are not read.
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
    """`processes`: ours, besides this one and those that have ended."""

    def __init__(self, processes: Iterable[int]) -> None:
        self._processes = list(processes)
        self._tick = 1 / os.sysconf("SC_CLK_TCK") if STAT.exists() else 0.0

    def share_during(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """What comes of it, and what others had of all processors' time meanwhile.

        That is 0 where the system does not tell.
        """
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
    """Of all processors: user, nice, system, irq, softirq, and what other machines stole."""
    ticks = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:]]
    return sum(ticks[:3]) + sum(ticks[5:8])
