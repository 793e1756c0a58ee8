"""Runs operators on the emulated GPU with some of their kernels replaced by checked ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...cuda.memory import Buffer, Pool, allocate
from ...cuda.module import LaunchFunction
from ...cuda.operators import CudaOperators

Launch = Callable[..., None]  # (kernel, grid, threads, address of the arguments' addresses, shared)


class SeparateAllocations(Pool):
    """A pool that allocates every array separately, so that accesses past its end are found."""

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

    def reserve(self, count: int, size: int) -> None:
        """Does nothing: each buffer is allocated from the driver."""

    def _free_returned(self) -> None:
        while self._returned:
            address = self._returned.popleft()
            if address in self._arenas:
                self._arenas.remove(address)
                self._device.call("cuMemFree", address)


@contextmanager
def launches_by(
    ops: CudaOperators, launch_of: Callable[[str, str], Launch | None]
) -> Iterator[None]:
    """Within the context, launch each kernel for which `launch_of(file, kernel)` gives a function
    by that function, after all work before it has ended; others as always."""
    device = ops.device

    def replaced(file: str, kernel: str) -> LaunchFunction:
        launch = launch_of(file, kernel)
        if launch is None:
            return device.driver.cuLaunchKernel

        def call(handle: Any, x: int, y: int, z: int, threads: int, *rest: Any) -> tuple[int]:
            _, _, shared, _, arguments, _ = rest
            device.synchronize()
            launch((x, y, z), threads, arguments, shared)
            return (0,)

        return call

    ops.kernels.replace_launches(replaced)
    try:
        yield
    finally:
        ops.kernels.replace_launches(None)
