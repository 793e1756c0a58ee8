"""Measure the limits of this machine: how fast it reads memory and multiplies matrices.

It uses numpy and its BLAS alone, and none of our operators. The limits of a GPU are measured in
benchmark/cuda_yardsticks.py.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from statistics import median
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cpu.threads import limit_blas

Floats: TypeAlias = NDArray[np.float32]

READ_BYTES = 1 << 30  # far beyond any cache
CHUNK = 1 << 20  # elements read by one call
MATRIX = 2048  # rows and columns: large enough for the product to reach its rate


@dataclass(frozen=True)
class CpuYardsticks:
    """Limits of the CPU with a number of threads."""

    threads: int
    read_huge: float  # bytes a second through huge pages
    read_small: float  # bytes a second through 4 KiB pages
    sgemm: float  # floating-point operations a second, float32

    products_name = "sgemm"

    @property
    def read(self) -> float:
        """The better of the two: the limit of decoding, which reads all weights for each token."""
        return max(self.read_huge, self.read_small)

    @property
    def products(self) -> float:
        return self.sgemm


class Yardsticks(Protocol):
    """Limits of a machine."""

    @property
    def threads(self) -> int | None: ...

    @property
    def read(self) -> float:
        """Bytes a second."""

    @property
    def products(self) -> float:
        """Floating-point operations a second."""

    @property
    def products_name(self) -> str: ...


Limits = TypeVar("Limits")


def between(before: Limits, after: Limits) -> Limits:
    """Return the mean of limits measured before and after some runs: shared machines drift."""
    first, second = asdict(before), asdict(after)  # type: ignore[call-overload]
    means = {
        name: (first[name] + second[name]) / 2 for name in first if isinstance(first[name], float)
    }
    return replace(before, **means)  # type: ignore[type-var]


class CpuMeter:
    """Measures the limits repeatedly over the same memory, which is slow to allocate."""

    def __init__(self, repeats: int = 5, size: int = READ_BYTES) -> None:
        """`repeats`: a figure is the median of so many; `size`: bytes read for each."""
        self._repeats = repeats
        # numpy asks the kernel for huge pages for an array of this size; mmap does not.
        self._huge = np.empty(size // 4, np.float32)
        self._small = np.frombuffer(mmap.mmap(-1, size), np.float32)
        self._huge.fill(1)
        self._small.fill(1)

    def measure(self, threads: int) -> CpuYardsticks:
        """Measure with `threads` threads of numpy's BLAS."""
        limit_blas(threads)
        try:
            return CpuYardsticks(
                threads=threads,
                read_huge=self._huge.nbytes / median(read_seconds(self._huge, self._repeats)),
                read_small=self._small.nbytes / median(read_seconds(self._small, self._repeats)),
                sgemm=2 * MATRIX**3 / median(product_seconds(MATRIX, self._repeats)),
            )
        finally:
            limit_blas(1)


def read_seconds(buffer: Floats, repeats: int, until: float = inf) -> list[float]:
    """Return how long numpy's BLAS reads the buffer; `repeats` and `until` as of `seconds_of`."""
    chunks = [buffer[start : start + CHUNK] for start in range(0, len(buffer), CHUNK)]

    def read() -> None:
        for chunk in chunks:
            np.dot(chunk, chunk)  # reads each number once, and computes faster than it reads

    return seconds_of(read, repeats, until)


def product_seconds(size: int, repeats: int, until: float = inf) -> list[float]:
    """Return how long a product of float32 matrices of `size` rows and columns takes."""
    matrix = np.full((size, size), 0.5, np.float32)
    other = matrix.copy()
    return seconds_of(lambda: matrix @ other, repeats, until)


def seconds_of(work: Callable[[], object], repeats: int, until: float = inf) -> list[float]:
    """Return the seconds that some work takes, each of `repeats` times; from `until`, as of
    time.perf_counter(), it is not repeated."""
    work()  # the first run touches the memory, wakes the threads and compiles
    times: list[float] = []
    while not times or (len(times) < repeats and time.perf_counter() < until):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times
