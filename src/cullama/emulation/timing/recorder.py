"""Records the launches that the CUDA backend makes, in the driver's place.

A launch is counted, or only recorded and not executed: results do not matter here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..counting.counts import CountedKernel, Counts, Latencies

SAMPLE = 4  # blocks that stand for a launch


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel; `counts` is None where it was not executed."""

    file: str
    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared: int  # dynamic bytes
    counts: Counts | None = None


class Recorder:
    """Takes the place of the driver's launches.

    `latencies`: of the card for which launches are counted; None only records them.
    """

    def __init__(self, folder: Path, latencies: Latencies | None) -> None:
        self.launches: list[Launch] = []
        self.is_counting = False
        self._folder, self._latencies = folder, latencies
        self._kernel = cache(CountedKernel)

    def launch_of(self, file: str, kernel: str) -> Callable[..., tuple[int]]:
        """Return what is called instead of cuLaunchKernel for one kernel."""

        def launch(handle: Any, x: int, y: int, z: int, threads: int, *rest: Any) -> tuple[int]:
            _, _, shared, _, arguments, _ = rest
            grid = (x, y, z)
            counts = None
            if self.is_counting and self._latencies:
                counted = self._kernel(self._folder / f"{file}.ptx", kernel)
                counts = counted.count_raw(
                    grid, threads, arguments, shared, SAMPLE, self._latencies
                )
            if self.is_counting:
                self.launches.append(Launch(file, kernel, grid, threads, shared, counts))
            return (0,)

        return launch
