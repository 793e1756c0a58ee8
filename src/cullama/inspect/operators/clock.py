"""Times operators, and copies of memory, on the CPU and on a GPU.

A figure is the median of a few runs after a warm-up. On a GPU the runs are captured in a graph and
timed by events, so that the time is that of the kernels without their launches from Python. Which
operators are timed is stated in inspect/operators/cases.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, Protocol

import numpy as np

from ...cpu.thread_pool import ThreadPool
from ...cuda import memory
from ...cuda.driver import Device
from ...cuda.memory import Pool

BUDGET = 0.02  # seconds, for all runs of one figure
SAMPLES = 5
MAX_RUNS = 20  # of a sample
COPIED_BYTES = 256 << 20  # larger than most caches
COPIED_BYTES_QUICK = 4 << 20

Work = Callable[[], Any]


class Clock(Protocol):
    """Times work on one device."""

    def seconds(self, run: Work, can_be_captured: bool) -> float:
        """Return the time of one run; `run` must have run before."""

    def copy_rate(self, is_quick: bool) -> float:
        """Return the bytes a second that a copy reads and writes."""


class HostClock(Clock):
    """Times work on the CPU."""

    def __init__(self, thread_pool: ThreadPool) -> None:
        self._thread_pool = thread_pool

    def seconds(self, run: Work, can_be_captured: bool = True) -> float:
        count = max(1, min(SAMPLES * MAX_RUNS, int(BUDGET / max(_once(run), 1e-7))))
        return median(_once(run) for _ in range(count))

    def copy_rate(self, is_quick: bool) -> float:
        """Copy with as many threads as the operators have."""
        size = COPIED_BYTES_QUICK if is_quick else COPIED_BYTES
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        share = -(-size // self._thread_pool.size)
        parts = [slice(start, start + share) for start in range(0, size, share)]
        tasks = [partial(np.copyto, target[part], source[part]) for part in parts]
        return 2 * size / self.seconds(lambda: self._thread_pool.execute(tasks))


def _once(run: Work) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class DeviceClock(Clock):
    """Times work on a GPU."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def seconds(self, run: Work, can_be_captured: bool) -> float:
        device = self._device

        def run_to_end() -> None:
            run()
            device.synchronize()

        device.synchronize()
        first = _once(run_to_end)
        runs = max(1, min(MAX_RUNS, int(BUDGET / SAMPLES / max(first, 1e-7))))
        samples = SAMPLES if first < BUDGET else 1
        if not can_be_captured:
            return self._timed(lambda: [run() for _ in range(runs)], samples) / runs
        graph = self._captured(run, runs)
        try:
            launch = partial(device.call, "cuGraphLaunch", graph, device.stream)
            return self._timed(launch, samples) / runs
        finally:
            device.driver.cuGraphExecDestroy(graph)

    def _timed(self, work: Work, samples: int) -> float:
        """Return the median of `samples` times, each between two events."""
        device = self._device
        start, end = device.call("cuEventCreate", 0), device.call("cuEventCreate", 0)
        try:
            times = []
            for _ in range(samples):
                device.call("cuEventRecord", start, device.stream)
                work()
                device.call("cuEventRecord", end, device.stream)
                device.call("cuEventSynchronize", end)
                times.append(float(device.call("cuEventElapsedTime", start, end)) / 1e3)
            return median(times)
        finally:
            for event in (start, end):
                device.driver.cuEventDestroy(event)

    def _captured(self, run: Work, runs: int) -> Any:
        """Capture `runs` runs in one graph; each reuses the memory that the one before freed."""
        device = self._device
        mode = device.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        device.call("cuStreamBeginCapture", device.stream, mode)
        try:
            for _ in range(runs):
                run()
        finally:
            status, graph = device.driver.cuStreamEndCapture(device.stream)
        device.check("cuStreamEndCapture", (status,))
        launchable = device.call("cuGraphInstantiate", graph, 0)
        device.call("cuGraphDestroy", graph)
        return launchable

    def copy_rate(self, is_quick: bool) -> float:
        device, pool = self._device, Pool(self._device)
        free, _ = device.free_and_total
        size = COPIED_BYTES_QUICK if is_quick else min(COPIED_BYTES, free // 8)
        source, target = (memory.empty(pool, (size,), np.uint8) for _ in range(2))
        copy = partial(memory.copy_on_device, device, source, target)
        try:
            copy()
            return 2 * size / self.seconds(copy, can_be_captured=True)
        finally:
            pool.close()
