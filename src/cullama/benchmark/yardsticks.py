"""The limits of this machine: how fast it reads memory, how fast it multiplies matrices.

It knows numpy and its BLAS only: the same library that the CPU backend works with, so that a share
of these figures is a share of what could have been.
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
PIECE = 1 << 20  # elements read by one call
MATRIX = 2048  # rows and columns: large enough for the product to reach its rate


@dataclass(frozen=True)
class CpuYardsticks:
    threads: int
    read_huge: float  # bytes a second through huge pages
    read_small: float  # bytes a second through 4 KiB pages
    sgemm: float  # floating-point operations a second, float32

    products_name = "sgemm"

    @property
    def read(self) -> float:
        """The better of the two: the limit of anything that must read all its weights."""
        return max(self.read_huge, self.read_small)

    @property
    def products(self) -> float:
        return self.sgemm


class Yardsticks(Protocol):
    """What a machine can do at most."""

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
    """The mean of limits measured before and after some runs: machines drift, shared ones most."""
    first, second = asdict(before), asdict(after)  # type: ignore[call-overload]
    means = {
        name: (first[name] + second[name]) / 2 for name in first if isinstance(first[name], float)
    }
    return replace(before, **means)  # type: ignore[type-var]


class CpuMeter:
    """Measures the limits again and again over the same memory, which is costly to come by."""

    def __init__(self, repeats: int = 5, size: int = READ_BYTES) -> None:
        """`repeats`: a figure is the median of so many; `size`: bytes read for each."""
        self._repeats = repeats
        self._huge, self._small = _huge_paged(size), _small_paged(size)

    def measure(self, threads: int) -> CpuYardsticks:
        """With numpy's BLAS at that many threads."""
        limit_blas(threads)
        try:
            return CpuYardsticks(
                threads=threads,
                read_huge=_read_rate(self._huge, self._repeats),
                read_small=_read_rate(self._small, self._repeats),
                sgemm=_sgemm_rate(self._repeats),
            )
        finally:
            limit_blas(1)


def _read_rate(buffer: Floats, repeats: int) -> float:
    pieces = [buffer[start : start + PIECE] for start in range(0, len(buffer), PIECE)]

    def read() -> None:
        for piece in pieces:
            np.dot(piece, piece)  # reads each number once, and adds nothing to the time of reading

    return buffer.nbytes / _median_seconds(read, repeats)


def _sgemm_rate(repeats: int) -> float:
    a = np.full((MATRIX, MATRIX), 0.5, np.float32)
    b = a.copy()
    return 2 * MATRIX**3 / _median_seconds(lambda: a @ b, repeats)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()  # the first run touches the memory and wakes the threads
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def _huge_paged(size: int) -> Floats:
    """numpy asks the kernel for huge pages for anything this large."""
    buffer = np.empty(size // 4, np.float32)
    buffer.fill(1)
    return buffer


def _small_paged(size: int) -> Floats:
    buffer = np.frombuffer(mmap.mmap(-1, size), np.float32)
    buffer.fill(1)
    return buffer
