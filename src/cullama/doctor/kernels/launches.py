"""Runs operators on the emulated GPU, and records the launches of their kernels.

A launch is counted, or only recorded and not executed: results do not matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...cuda.module import LaunchFunction, Size3
from ...cuda.operators import CudaOperators
from ...emulation.counting.counts import CountedKernel, Counts, Latencies
from ...emulation.device import preload
from ...errors import UsageError
from ..cases import CASES
from ..fixture import Fixture, ModelSizes

SAMPLE = 4  # blocks that stand for a launch


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel; `counts` is None where it was not executed."""

    file: str
    kernel: str
    grid: Size3
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

    def launch_of(self, file: str, kernel: str) -> LaunchFunction:
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


def chosen_cases(names: Sequence[str]) -> list[str]:
    """Return the cases of the self-test whose operator, or whole name, is among `names`.

    Raises:
        UsageError: there is none of a name.
    """
    if not names:
        return list(CASES)
    chosen = [case for case in CASES if case in names or case.partition(",")[0] in names]
    known = dict.fromkeys(case.partition(",")[0] for case in CASES)
    for name in names:
        if name not in CASES and name not in known:
            raise UsageError(f"there is no operator {name!r}, expected some of {', '.join(known)}")
    return chosen


def launches_of(
    ops: CudaOperators,
    folder: Path,
    names: Sequence[str],
    sizes: ModelSizes,
    latencies: Latencies | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, str, list[Launch]]]:
    """Yield each case's name and shape, and its launches, in the operators' type."""
    recorder = Recorder(folder, latencies)
    ops.kernels.replace_launches(recorder.launch_of)
    preload().set("fill", 0)  # not NaN, on which kernels may branch
    fixture = Fixture(ops, ops.dtype_name, ops.dtype, sizes)
    for name in names:
        announce(f"{name} …")
        recorder.is_counting = False
        case = CASES[name](fixture)
        ops.device.synchronize()  # what was uploaded for it
        recorder.launches, recorder.is_counting = [], True
        case.run()
        if not recorder.launches:
            announce(f"{name}: no kernel of kernels/, but cuBLAS, a copy or a graph")
        yield name, case.shape, recorder.launches
