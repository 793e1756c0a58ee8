"""Measure the limits of this machine: how fast it reads memory and multiplies matrices.

It uses numpy and its BLAS alone, and none of our operators. The limits of a GPU are measured in
benchmark/cuda_yardsticks.py.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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

    def __init__(self, repeats: int = 5, size: int = READ_BYTES, matrix: int = MATRIX) -> None:
        """`repeats`: a figure is the median of so many; `size`: bytes read for each; `matrix`: rows
        and columns of those multiplied."""
        self._repeats, self._matrix = repeats, matrix
        # numpy asks the kernel for huge pages for an array of this size; mmap does not.
        self._huge = np.empty(size // 4, np.float32)
        self._small = np.frombuffer(mmap.mmap(-1, size), np.float32)
        self._huge.fill(1)
        self._small.fill(1)

    def measure(self, threads: int) -> CpuYardsticks:
        """Measure with `threads` threads of numpy's BLAS."""
        limit_blas(threads)
        matrix = np.full((self._matrix, self._matrix), 0.5, np.float32)
        other = matrix.copy()
        try:
            return CpuYardsticks(
                threads=threads,
                read_huge=_read_rate(self._huge, self._repeats),
                read_small=_read_rate(self._small, self._repeats),
                sgemm=2 * self._matrix**3 / _median_seconds(lambda: matrix @ other, self._repeats),
            )
        finally:
            limit_blas(1)


def _read_rate(buffer: Floats, repeats: int) -> float:
    chunks = [buffer[start : start + CHUNK] for start in range(0, len(buffer), CHUNK)]

    def read() -> None:
        for chunk in chunks:
            np.dot(chunk, chunk)  # reads each number once, and computes faster than it reads

    return buffer.nbytes / _median_seconds(read, repeats)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()  # the first run touches the memory and wakes the threads
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)
