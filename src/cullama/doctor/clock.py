"""How long an operator takes, and how fast memory is copied: on the CPU, and on a GPU.

A figure is the median of a few runs after one that warms up. On a GPU, the runs are captured in a
graph and timed by events, so that it is the kernels' time, not that of launching them from Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, Protocol

import numpy as np

from ..cpu.thread_pool import ThreadPool
from ..cuda import memory
from ..cuda.driver import Device
from ..cuda.memory import Pool

BUDGET = 0.02  # seconds, for the runs of a figure
SAMPLES = 5
MOST_RUNS = 20  # in a sample
COPIED = 256 << 20  # bytes: beyond most caches
COPIED_QUICKLY = 4 << 20

Run = Callable[[], Any]


class Clock(Protocol):
    def seconds(self, run: Run, can_be_captured: bool) -> float:
        """Of one run; it has run before."""

    def copy_rate(self, is_quick: bool) -> float:
        """Bytes a second that a copy reads and writes."""


class HostClock(Clock):
    def __init__(self, thread_pool: ThreadPool) -> None:
        self._thread_pool = thread_pool

    def seconds(self, run: Run, can_be_captured: bool = True) -> float:
        count = max(1, min(SAMPLES * MOST_RUNS, int(BUDGET / max(_once(run), 1e-7))))
        return median(_once(run) for _ in range(count))

    def copy_rate(self, is_quick: bool) -> float:
        """With as many threads as the operators have."""
        size = COPIED_QUICKLY if is_quick else COPIED
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        share = -(-size // self._thread_pool.size)
        parts = [slice(start, start + share) for start in range(0, size, share)]
        tasks = [partial(np.copyto, target[part], source[part]) for part in parts]
        return 2 * size / self.seconds(lambda: self._thread_pool.execute(tasks))


def _once(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class DeviceClock(Clock):
    def __init__(self, device: Device) -> None:
        self._device = device

    def seconds(self, run: Run, can_be_captured: bool) -> float:
        device = self._device
        device.synchronize()
        first = _once(lambda: self._finished(run))
        runs = max(1, min(MOST_RUNS, int(BUDGET / SAMPLES / max(first, 1e-7))))
        samples = SAMPLES if first < BUDGET else 1
        if not can_be_captured:
            return self._timed(lambda: [run() for _ in range(runs)], samples) / runs
        graph = self._captured(run, runs)
        try:
            launch = partial(device.call, "cuGraphLaunch", graph, device.stream)
            return self._timed(launch, samples) / runs
        finally:
            device.driver.cuGraphExecDestroy(graph)

    def _finished(self, run: Run) -> None:
        run()
        self._device.synchronize()

    def _timed(self, work: Run, samples: int) -> float:
        """Seconds between two events, the median."""
        device = self._device
        start, end = device.call("cuEventCreate", 0), device.call("cuEventCreate", 0)
        try:
            return median(self._between(start, end, work) for _ in range(samples))
        finally:
            for event in (start, end):
                device.driver.cuEventDestroy(event)

    def _between(self, start: Any, end: Any, work: Run) -> float:
        device = self._device
        device.call("cuEventRecord", start, device.stream)
        work()
        device.call("cuEventRecord", end, device.stream)
        device.call("cuEventSynchronize", end)
        return float(device.call("cuEventElapsedTime", start, end)) / 1e3

    def _captured(self, run: Run, runs: int) -> Any:
        """So many runs as one launch; each takes the memory that the one before gave back."""
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
        size = COPIED_QUICKLY if is_quick else min(COPIED, free // 8)
        source, target = (memory.empty(pool, (size,), np.uint8) for _ in range(2))
        copy = partial(memory.copy_on_device, device, source, target)
        try:
            copy()
            return 2 * size / self.seconds(copy, can_be_captured=True)
        finally:
            pool.close()
