"""The GPU that tests of the CUDA backend run on: one played by the CPU, or a real one.

With CULLAMA_TEST_GPU=1 (`make test-gpu`) it is this machine's; else `tests/emulation` plays it,
from the very PTX files that ship. `missing()` says why neither can be had.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from functools import cache
from typing import Any

import pytest

from cullama.cuda.memory import Buffer, Pool, allocate
from cullama.cuda.module import PTX_FOLDER

IS_REAL = os.environ.get("CULLAMA_TEST_GPU") == "1"


@cache
def missing() -> str | None:
    """What keeps the CUDA backend from being tested here."""
    if not any(PTX_FOLDER.glob("*/*.ptx")):
        return "the kernels are not built: run `make ptx`"
    if IS_REAL:
        return None
    if shutil.which("g++") is None:
        return "g++ is not installed, and the GPU is played by C++"
    try:
        import cuda.bindings  # noqa: F401
    except ImportError:
        return "cuda-bindings is not installed: pip install -e '.[dev]'"
    return None


@cache
def emulated() -> Any:
    """The knobs of the GPU that the CPU plays; from now on, this process has it."""
    assert not IS_REAL
    from emulation import device

    return device.preload()


def require() -> None:
    """A GPU for the test or fixture that calls this; without one, it is skipped, saying why."""
    if reason := missing():
        pytest.skip(reason)
    if not IS_REAL:
        emulated()


def operators(dtype: str, *, has_cublas: bool = True, deterministic: bool = False) -> Any:
    """The CUDA backend, each array in memory of its own."""
    require()
    from cullama.cuda.driver import Device
    from cullama.cuda.operators import CudaOperators

    with pytest.MonkeyPatch.context() as patch:
        if not has_cublas:
            patch.setattr("cullama.cuda.operators.find_cublas", lambda: None)
        return CudaOperators(dtype, Device(), deterministic, pool=EachItsOwn)


class EachItsOwn(Pool):
    """Every array in an allocation of its own: a step past its end is found out."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._returned: deque[int] = deque()

    def free(self, address: int, size: int) -> None:
        self._returned.append(address)

    def allocate(self, size: int) -> Buffer:
        self._free_returned()
        size = max(1, size)
        address = allocate(self._device, size)
        self._arenas.append(address)
        return Buffer(self, address, size)

    def reserve(self, pieces: int, size: int) -> None:
        """Each piece is asked for when it is taken."""

    def _free_returned(self) -> None:
        while self._returned:
            address = self._returned.popleft()
            if address in self._arenas:
                self._arenas.remove(address)
                self._device.call("cuMemFree", address)
