"""Launches kernels from PTX on this machine's processor, with numpy arrays for device memory.

It calls the C interface of a built module, with arrays between guard pages. Modules are built by
build.py. The emulated libcuda is not involved: it calls modules itself.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import CullamaError
from .build import build_file, build_text

Array: TypeAlias = NDArray[Any]
Extent: TypeAlias = int | tuple[int, ...]

ALIGNMENT = 16  # of arrays: the widest vector load
POISON = 0xFF


class KernelError(CullamaError):
    """A kernel broke a rule; `code` is CUDA's error code, the message one line that says where."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"CUDA error {code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Schedule:
    """The order of blocks and threads, and when asynchronous copies run."""

    order: str = "ascending"  # | "descending" | "random"
    seed: int = 0
    has_eager_copies: bool = False

    def __str__(self) -> str:
        eager = "-eager" if self.has_eager_copies else ""
        return f"{self.order}{self.seed or ''}{eager}"


ORDERS = ("ascending", "descending", "random")
SCHEDULES = (
    *(Schedule(order, seed) for order, seed in zip(ORDERS, (0, 0, 1), strict=True)),
    Schedule("ascending", has_eager_copies=True),
)


class _GuardedMemory:
    """A copy of an array between two guard pages."""

    def __init__(self, contents: Array) -> None:
        self._array, size = contents, contents.nbytes
        body = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, body + 2 * mmap.PAGESIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._end = base + mmap.PAGESIZE + body
        self.address = self._end - -(-size // ALIGNMENT) * ALIGNMENT
        ctypes.memset(base + mmap.PAGESIZE, POISON, body)
        ctypes.memmove(self.address, contents.ctypes.data, size)
        for guard in (base, self._end):
            _protect(guard, mmap.PAGESIZE, 0)

    def copy_back(self) -> None:
        target = self._array
        ctypes.memmove(target.ctypes.data, self.address, target.nbytes)
        slack = self._end - self.address - target.nbytes
        rest = ctypes.string_at(self.address + target.nbytes, slack)
        if rest != bytes([POISON]) * slack:
            raise KernelError(
                700, f"bytes just past an array of {target.nbytes} bytes were written"
            )


def _protect(address: int, size: int, protection: int) -> None:
    process = ctypes.CDLL(None, use_errno=True)
    if process.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise OSError(ctypes.get_errno(), "mprotect")


def _extents(extent: Extent) -> Any:
    values = (extent,) if isinstance(extent, int) else tuple(extent)
    return (ctypes.c_uint * 3)(*values, *[1] * (3 - len(values)))


class BuiltModule:
    """The kernels of one shared object."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._is_live: ctypes.c_void_p | None = None
        self._library.emulated_error.restype = ctypes.c_char_p
        self._library.emulated_parameter_size.restype = ctypes.c_size_t
        self._library.emulated_parameter_size.argtypes = [ctypes.c_char_p, ctypes.c_int]
        self._library.emulated_schedule.argtypes = [ctypes.c_int, ctypes.c_ulonglong]
        self._library.emulated_watchdog.argtypes = [ctypes.c_ulonglong]

    def parameter_sizes(self, kernel: str) -> list[int]:
        name, library = kernel.encode(), self._library
        count = library.emulated_parameter_count(name)
        if count < 0:
            raise KeyError(kernel)
        return [library.emulated_parameter_size(name, index) for index in range(count)]

    def static_bytes(self, kernel: str) -> tuple[int, int]:
        """Return the kernel's bytes of static shared memory and of local memory."""
        shared, local = ctypes.c_size_t(), ctypes.c_size_t()
        self._library.emulated_static(kernel.encode(), ctypes.byref(shared), ctypes.byref(local))
        return shared.value, local.value

    @contextmanager
    def scheduled(self, schedule: Schedule) -> Iterator[None]:
        self._set(schedule)
        try:
            yield
        finally:
            self._set(Schedule())

    def _set(self, schedule: Schedule) -> None:
        self._library.emulated_schedule(ORDERS.index(schedule.order), schedule.seed)
        self._library.emulated_eager_copies(int(schedule.has_eager_copies))
        self._library.emulated_counter_check(0)

    def check_pointers(self, is_live: ctypes.c_void_p | None) -> None:
        """Set the C function int is_live(unsigned long long address, size_t size), or None.

        A Python function would not do: kernels run on small stacks.
        """
        self._is_live = is_live
        self._library.emulated_check_pointers(is_live)

    @contextmanager
    def watchdog(self, steps: int) -> Iterator[None]:
        """Limit the loop iterations and waits of a block."""
        self._library.emulated_watchdog(steps)
        try:
            yield
        finally:
            self._library.emulated_watchdog(2_000_000_000)

    def launch(
        self,
        kernel: str,
        grid: Extent,
        block: Extent,
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        schedule: Schedule | None = None,
    ) -> None:
        """Launch a kernel; arrays are copied in and back.

        Scalars are numpy's or ctypes', or Python's, which are converted to the parameter's size.
        """
        memories: list[_GuardedMemory] = []
        packed = self._packed(kernel, arguments, memories)
        if self._is_live is None:  # an emulated driver in this process may have left its own
            self._library.emulated_check_pointers(None)
        pointers = (ctypes.c_void_p * max(1, len(packed)))(*map(ctypes.addressof, packed))
        with self.scheduled(schedule or Schedule()):
            self.launch_raw(kernel, grid, block, ctypes.addressof(pointers), shared_bytes)
        for memory in memories:
            memory.copy_back()

    def launch_raw(
        self, kernel: str, grid: Extent, block: Extent, arguments: int, shared_bytes: int
    ) -> None:
        """Launch a kernel; `arguments` is the address of the addresses of its arguments."""
        code = self._library.emulated_launch(
            kernel.encode(),
            _extents(grid),
            _extents(block),
            ctypes.c_size_t(shared_bytes),
            ctypes.c_void_p(arguments),
        )
        if code:
            raise KernelError(code, self._library.emulated_error().decode())

    def _packed(
        self, kernel: str, values: Sequence[Any], memories: list[_GuardedMemory]
    ) -> list[Any]:
        sizes = self.parameter_sizes(kernel)
        if len(sizes) != len(values):
            raise TypeError(f"{kernel} takes {len(sizes)} arguments, not {len(values)}")
        packed = []
        for value, size in zip(values, sizes, strict=True):
            if isinstance(value, np.ndarray) and value.ndim:
                if not value.flags.c_contiguous:
                    raise TypeError(f"{kernel}: an array that is not contiguous; pass a copy")
                memories.append(_GuardedMemory(value))
                value = ctypes.c_uint64(memories[-1].address)
            data = _bytes(value, size)
            if len(data) != size:
                raise TypeError(f"{kernel}: {value!r} has {len(data)} bytes, its parameter {size}")
            packed.append(ctypes.create_string_buffer(data, size))
        return packed


class EmulatedModule(BuiltModule):
    """The kernels of a PTX file or text."""

    def __init__(self, ptx: Path | str) -> None:
        super().__init__(build_file(ptx) if isinstance(ptx, Path) else build_text(ptx))


def _bytes(value: Any, size: int) -> bytes:
    """Convert a scalar to bytes; Python's int and float take the parameter's size."""
    if isinstance(value, bool | int):
        return int(value).to_bytes(size, "little", signed=value < 0)
    if isinstance(value, float):
        return np.array(value, {4: np.float32, 8: np.float64}[size]).tobytes()
    return (
        bytes(value)
        if isinstance(value, ctypes._SimpleCData | ctypes.Structure)
        else value.tobytes()
    )
