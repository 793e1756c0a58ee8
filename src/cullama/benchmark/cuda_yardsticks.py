"""Measure the limits of a GPU: how fast it copies, reads and multiplies, and starts kernels.

It uses the driver's copy, kernels/bandwidth.cu, the backend's matrix product (cuBLAS where it is
installed), and a graph of empty kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from ..cuda.memory import DeviceArray, Pool, copy_on_device, empty
from ..cuda.operators import CudaOperators
from ..cuda.weight import CudaWeight
from ..model.layer import Linear

COPIED_BYTES = 4 << 30  # far beyond any cache; a quarter of the free memory at most
MATRIX = 8192  # rows and columns: large enough for a product to reach its rate
RANDOM_NUMBERS = 1 << 22  # repeated to the end of an array
KERNELS = 1000  # empty ones, in a graph
BLOCKS_EACH = 8  # of the kernel that reads memory, on each multiprocessor
THREADS = 256


@dataclass(frozen=True)
class CudaYardsticks:
    """Limits of a GPU."""

    copy: float  # bytes a second, read and written
    read: float  # bytes a second
    products: float  # floating-point operations a second, in the storage type
    gap: float  # seconds from the start of one empty kernel to that of the next, in a graph
    threads: int | None = None  # of the CPU: none
    products_name: str = "matrix product"


class CudaMeter:
    """Measures the limits repeatedly over the same memory."""

    def __init__(self, ops: CudaOperators, repeats: int = 5) -> None:
        """`repeats`: a figure is the median of so many."""
        self._ops, self._device, self._repeats = ops, ops.device, repeats
        free, _ = ops.device.free_and_total
        size = min(COPIED_BYTES, free // 4) // 256 * 256
        self._pool = Pool(ops.device, arena_size=0)
        self._from = empty(self._pool, (size // 4,), np.float32)
        self._to = empty(self._pool, (size // 4,), np.float32)
        self._fill(self._from)

    def measure(self) -> CudaYardsticks:
        """Measure all limits."""
        size = self._from.nbytes
        copy = partial(copy_on_device, self._device, self._from, self._to)
        matrix = empty(self._pool, (MATRIX, MATRIX), self._ops.dtype)
        self._fill(matrix)
        multiply = partial(self._ops.linear, matrix, Linear(CudaWeight(matrix)))
        return CudaYardsticks(
            copy=2 * size / self._seconds(copy),
            read=size / self._seconds(self._read),
            products=2 * MATRIX**3 / self._seconds(multiply),
            gap=self._gap(),
        )

    def close(self) -> None:
        """Free the memory."""
        self._device.synchronize()
        self._pool.close()

    def _fill(self, array: DeviceArray) -> None:
        """Fill an array with normal numbers; products of zeros draw less power and run faster."""
        begin = array.view(0, (min(array.size, RANDOM_NUMBERS),))
        numbers = np.random.default_rng(0).standard_normal(begin.size, np.float32)
        copy_on_device(self._device, self._ops.upload(numbers.astype(array.dtype)), begin)
        filled = begin.size
        while filled < array.size:
            more = min(filled, array.size - filled)
            copy_on_device(self._device, array.view(0, (more,)), array.view(filled, (more,)))
            filled += more

    def _read(self) -> None:
        kernel = self._ops.kernels("bandwidth", "read_f32")
        blocks = BLOCKS_EACH * self._device.attribute("MULTIPROCESSOR_COUNT")
        kernel((blocks, 1, 1), THREADS, self._to.address, self._from.address, self._from.size)

    def _gap(self) -> float:
        """Time empty kernels in a graph, each with a block for every multiprocessor."""
        device, kernel = self._device, self._ops.kernels("bandwidth", "nothing_f32")
        mode = device.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        device.call("cuStreamBeginCapture", device.stream, mode)
        for _ in range(KERNELS):
            kernel((device.attribute("MULTIPROCESSOR_COUNT"), 1, 1), THREADS)
        graph = device.call("cuStreamEndCapture", device.stream)
        launchable = device.call("cuGraphInstantiate", graph, 0)
        device.call("cuGraphDestroy", graph)
        launch = self._seconds(lambda: device.call("cuGraphLaunch", launchable, device.stream))
        device.call("cuGraphExecDestroy", launchable)
        return launch / KERNELS

    def _seconds(self, work: Callable[[], object]) -> float:
        """Return the median time of `work`, after a first run that wakes the GPU."""
        times = []
        for _ in range(self._repeats + 1):
            self._device.synchronize()
            start = time.perf_counter()
            work()
            self._device.synchronize()
            times.append(time.perf_counter() - start)
        return median(times[1:])
