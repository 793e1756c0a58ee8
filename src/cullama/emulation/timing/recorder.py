"""Records the launches that the CUDA backend makes, in the driver's place.

A launch is counted, or only recorded and not executed: results do not matter here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..counting.counts import CountedKernel, Counts
from .cards import Card

SAMPLE = 4  # blocks that stand for a launch
POINTER = 8  # bytes of an argument that is an address
_ENTRY = re.compile(r"\.visible \.entry (\w+)\s*\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.[a-z]+(\d+)[^,\[]*(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel; `counts` is None where it was not executed."""

    file: str
    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared: int  # dynamic bytes
    counts: Counts | None = None
    numbers: bytes = b""  # its arguments but for addresses

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what launches have in common that differ only in where their operands lie."""
        return self.kernel, self.grid, self.threads, self.shared, self.numbers


class Recorder:
    """Takes the place of the driver's launches: records them from `begin` to `end`."""

    def __init__(self, folder: Path, card: Card, *, is_counting: bool) -> None:
        """`is_counting`: execute some blocks of each launch, and count; otherwise only record."""
        self.is_counting = is_counting
        self._folder, self._card = folder, card
        self._kernel, self._sizes = cache(CountedKernel), cache(_parameter_sizes)
        self._launches: list[Launch] | None = None
        self._warm: tuple[int, int] | None = None  # address and bytes, at the first launch

    def begin(self, warm: tuple[int, int] = (0, 0)) -> None:
        """Record from here on; memory is cold but for `warm`, an address and bytes."""
        self._launches, self._warm = [], warm

    def end(self) -> list[Launch]:
        launches, self._launches = self._launches, None
        return launches or []

    def launch_of(self, file: str, name: str) -> Callable[..., tuple[int]]:
        """Return what is called instead of cuLaunchKernel for one kernel."""

        def launch(handle: Any, x: int, y: int, z: int, threads: int, *rest: Any) -> tuple[int]:
            _, _, shared, _, arguments, _ = rest
            if self._launches is None:
                return (0,)
            grid, counts = (x, y, z), None
            numbers = _numbers(arguments, self._sizes(self._folder / f"{file}.ptx")[name])
            if self.is_counting:
                kernel = self._kernel(self._folder / f"{file}.ptx", name)
                if self._warm is not None:
                    kernel.empty_l2(self._card.l2_megabytes << 20)
                    kernel.warm_l2(*self._warm)
                    self._warm = None
                latencies = self._card.latencies
                counts = kernel.count_raw(grid, threads, arguments, shared, SAMPLE, latencies)
            self._launches.append(Launch(file, name, grid, threads, shared, counts, numbers))
            return (0,)

        return launch


def _parameter_sizes(ptx: Path) -> dict[str, list[int]]:
    """Return the bytes of each parameter of a file's kernels."""
    return {
        name: [int(length or 1) * int(bits) // 8 for bits, length in _PARAMETER.findall(parameters)]
        for name, parameters in _ENTRY.findall(ptx.read_text(encoding="utf-8"))
    }


def _numbers(arguments: int, sizes: list[int]) -> bytes:
    """Return the arguments that are not addresses; `arguments` points to where each lies."""
    places = (ctypes.c_void_p * len(sizes)).from_address(arguments)
    found = (
        ctypes.string_at(place, size)
        for place, size in zip(places, sizes, strict=True)
        if size != POINTER and place
    )
    return b"".join(found)
