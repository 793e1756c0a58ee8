"""Device memory: arrays, the pools they are allocated from, and pinned pages for copies.

A `DeviceArray` frees its memory when Python drops it, and its pool allocates at the lowest free
address: steps that allocate the same sizes get the same addresses, so that a captured graph can be
replayed. Memory may be reused while kernels that read it are still running: all work is in one
stream, so a later write waits for them.

This file computes nothing on the device: operators are launched elsewhere.
"""

from __future__ import annotations

import ctypes
import gc
from collections import deque
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import DeviceMemoryError
from ..files.tensor import HostArray
from ..model.free_list import FreeList
from .driver import NO_TIMING, OUT_OF_MEMORY, Device, megabytes, out_of_memory

ALIGNMENT = 256  # bytes, as the driver's own allocations
ARENA_SIZE = 32 << 20  # bytes: the least that a pool allocates from the driver
STAGING_SIZE = 16 << 20  # bytes of a pinned page for weights


class Pool:
    """A first-fit allocator over arenas of device memory; arenas are freed by `close` only.

    Args:
        arena_size: bytes; larger allocations get an arena of their size.
    """

    def __init__(self, device: Device, arena_size: int = ARENA_SIZE) -> None:
        self._device, self._arena_size = device, arena_size
        self._arenas: list[int] = []  # addresses
        self._free = FreeList()  # of addresses

    def allocate(self, size: int) -> Buffer:
        """Return a buffer of at least `size` bytes, at the lowest address that fits.

        Raises:
            DeviceMemoryError: the device has no room for another arena.
        """
        size = max(ALIGNMENT, _aligned(size))
        address = self._free.take(size)
        if address is None:
            self._add_arena(size)
            return self.allocate(size)
        return Buffer(self, address, size)

    def reserve(self, count: int, size: int) -> None:
        """Make room for `count` buffers of a size in one arena; in several, they would leave gaps.

        Raises:
            DeviceMemoryError: the device has no room for such an arena.
        """
        total = count * _aligned(size)
        if not self._free.has_room_for(total):
            self._add_arena(total)

    def free(self, address: int, size: int) -> None:
        """Return memory to the pool; safe at any moment, as from a collection inside `allocate`."""
        self._free.give_back(address, size)

    def close(self) -> None:
        """Return all memory to the driver; arrays in it must not be used any more."""
        for address in self._arenas:
            self._device.driver.cuMemFree(address)  # fails on a lost device: freed with the process
        self._arenas.clear()
        self._free.clear()

    @property
    def arenas(self) -> int:
        """Return the number of arenas, which does not change in a step that needed no new one."""
        return len(self._arenas)

    def _add_arena(self, size: int) -> None:
        """Allocate an arena of the usual size; where that is too much, of `size` bytes."""
        arena_size = max(size, self._arena_size)
        try:
            address = allocate(self._device, arena_size)
        except DeviceMemoryError:
            if size >= self._arena_size:
                raise
            address, arena_size = allocate(self._device, size), size
        self._arenas.append(address)
        self._free.add(address, arena_size)  # the driver takes no range across two allocations


def allocate(device: Device, size: int) -> int:
    """Allocate memory from the driver and return its address.

    Raises:
        DeviceMemoryError: the device has less than `size` bytes free.
    """
    device.make_current()
    status, address = device.driver.cuMemAlloc(size)
    if status == OUT_OF_MEMORY and gc.collect():  # models that were dropped without being closed
        status, address = device.driver.cuMemAlloc(size)
    if status == OUT_OF_MEMORY:
        raise out_of_memory(device, megabytes(size))
    device.check("cuMemAlloc", (status,))
    return int(address)


class Buffer:
    """A range of a pool's memory, freed when the last array in it is dropped."""

    __slots__ = ("_pool", "address", "size")

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self._pool, self.address, self.size = pool, address, size

    def __del__(self) -> None:
        self._pool.free(self.address, self.size)


class DeviceArray:
    """A contiguous row-major array on the device, opaque but for its shape and dtype."""

    __slots__ = ("address", "buffer", "dtype", "shape")

    def __init__(
        self, buffer: Buffer | None, shape: tuple[int, ...], dtype: np.dtype, address: int
    ) -> None:
        self.buffer, self.shape, self.dtype, self.address = buffer, shape, dtype, address

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def first_rows(self, count: int) -> DeviceArray:
        """Return a view of the first `count` rows."""
        return DeviceArray(self.buffer, (count, *self.shape[1:]), self.dtype, self.address)

    def view(self, start: int, shape: tuple[int, ...]) -> DeviceArray:
        """Return a view of the given shape that begins at element `start`."""
        address = self.address + start * self.dtype.itemsize
        return DeviceArray(self.buffer, shape, self.dtype, address)

    def borrowed(self) -> DeviceArray:
        """Return a view that does not keep its memory: it is valid until that is allocated again
        and written to."""
        return DeviceArray(None, self.shape, self.dtype, self.address)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name} {list(self.shape)})"


def empty(pool: Pool, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """Allocate an array whose elements are not set."""
    dtype = np.dtype(dtype)
    buffer = pool.allocate(prod(shape) * dtype.itemsize)
    return DeviceArray(buffer, shape, dtype, buffer.address)


class Staging:
    """Uploads through a ring of pinned pages, so that the host need not wait for the copies.

    A page is written again only when the copy that reads it is done.

    Args:
        pages: how many pages the ring has.
        size: bytes of a page.
    """

    def __init__(self, device: Device, pages: int, size: int) -> None:
        self._device, self._size = device, size
        self._pages: deque[_PinnedPage] = deque()
        try:
            for _ in range(pages):
                self._pages.append(_PinnedPage(device, size))
        except BaseException:
            self.close()
            raise

    def upload(self, host: HostArray, address: int) -> None:
        """Copy an array to the device; `host` may be changed as soon as this returns."""
        raw = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
        for start in range(0, len(raw), self._size):
            part = raw[start : start + self._size]
            self._device.make_current()
            page = self._pages[0]
            self._pages.rotate(-1)
            self._device.call("cuEventSynchronize", page.event)
            page.bytes[: len(part)] = part
            self._device.call(
                "cuMemcpyHtoDAsync", address + start, page.address, len(part), self._device.stream
            )
            self._device.call("cuEventRecord", page.event, self._device.stream)

    def close(self) -> None:
        while self._pages:
            self._pages.pop().close()


class _PinnedPage:
    """Page-locked host memory, and the event that tells when its last copy is done."""

    def __init__(self, device: Device, size: int) -> None:
        device.make_current()
        self._driver = device.driver
        status, address = self._driver.cuMemHostAlloc(size, 0)
        if status == OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f"the machine has no room for {megabytes(size)} of pinned memory, which copies to "
                "the GPU need; close other programs, or raise the limit of locked memory "
                "(ulimit -l)"
            )
        device.check("cuMemHostAlloc", (status,))
        self.address = int(address)
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        self.bytes: HostArray = np.ctypeslib.as_array(memory)
        try:
            self.event = device.call("cuEventCreate", NO_TIMING)
        except BaseException:
            self._driver.cuMemFreeHost(self.address)
            raise

    def close(self) -> None:
        self._driver.cuEventDestroy(self.event)
        self._driver.cuMemFreeHost(self.address)


class ReadbackBuffer:
    """A pinned page for results: `start` the copy from the device, later `wait` for the array."""

    def __init__(self, device: Device, size: int) -> None:
        self._device, self._page = device, _PinnedPage(device, size)
        self.size = size

    def start(self, source: DeviceArray) -> None:
        device = self._device
        device.make_current()
        device.call(
            "cuMemcpyDtoHAsync", self._page.address, source.address, source.nbytes, device.stream
        )
        device.call("cuEventRecord", self._page.event, device.stream)

    def wait(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        """Return a copy of what was read back, once it is there."""
        self._device.make_current()
        self._device.call("cuEventSynchronize", self._page.event)
        count = prod(shape) * np.dtype(dtype).itemsize
        return self._page.bytes[:count].copy().view(dtype).reshape(shape)

    def close(self) -> None:
        self._page.close()


def download(device: Device, array: DeviceArray) -> HostArray:
    """Wait until an array is computed, and copy it to the host."""
    device.make_current()
    host = np.empty(array.shape, array.dtype)
    if array.size:
        target: Any = host.ctypes.data
        device.call("cuMemcpyDtoHAsync", target, array.address, array.nbytes, device.stream)
    device.synchronize()
    return host


def copy_on_device(device: Device, source: DeviceArray, target: DeviceArray) -> None:
    """Copy between arrays of the same size, in the device's stream."""
    assert source.nbytes == target.nbytes
    device.make_current()
    device.call("cuMemcpyDtoDAsync", target.address, source.address, source.nbytes, device.stream)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
