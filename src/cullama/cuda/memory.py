"""Device memory: arrays, the pools they come from, and the pinned pages that copies go through.

A `DeviceArray` returns its memory when Python drops it, and its pool hands out the lowest free
address first: steps that ask for the same sizes get the same addresses, which is what lets a
captured graph be replayed. Memory may be given to the next array while kernels that read it are
still under way: all work lies in one stream, so whatever writes to it comes later.

It knows no operator.
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
ARENA = 32 << 20  # bytes asked of the driver at a time
STAGING_SIZE = 16 << 20  # bytes of weights on their way at a time


class Pool:
    """Memory of a device in arenas: the lowest free address first, and nothing back before `close`.

    Raises:
        DeviceMemoryError: the device has no room for another arena.
    """

    def __init__(self, device: Device, arena: int = ARENA) -> None:
        self._device, self._arena = device, arena
        self._arenas: list[int] = []  # addresses
        self._free = FreeList()

    def take(self, size: int) -> Buffer:
        size = max(ALIGNMENT, _aligned(size))
        address = self._free.take(size)
        if address is None:
            self._grow(size)
            return self.take(size)
        return Buffer(self, address, size)

    def reserve(self, pieces: int, size: int) -> None:
        """Room for so many pieces of a size in one arena: across many, they would leave gaps."""
        whole = pieces * _aligned(size)
        if not self._free.has_room_for(whole):
            self._grow(whole)

    def give_back(self, address: int, size: int) -> None:
        """May be called at any moment, even by the garbage collector in the middle of `take`."""
        self._free.give_back(address, size)

    def close(self) -> None:
        """Return everything to the driver; arrays that are still held must not be used any more."""
        for address in self._arenas:
            self._device.driver.cuMemFree(address)  # of a lost device: it is freed with the process
        self._arenas.clear()
        self._free.clear()

    @property
    def arenas(self) -> int:
        """Arenas asked of the driver so far: the same before and after a step that fitted in."""
        return len(self._arenas)

    def _grow(self, size: int) -> None:
        """By a whole arena, or where there is no room for that, by what is asked."""
        try:
            address, grown = allocate(self._device, max(size, self._arena)), max(size, self._arena)
        except DeviceMemoryError:
            if size >= self._arena:
                raise
            address, grown = allocate(self._device, size), size
        self._arenas.append(address)
        self._free.give_back(address, grown)


def allocate(device: Device, size: int) -> int:
    """The address of fresh memory.

    Raises:
        DeviceMemoryError: there is not so much.
    """
    device.make_current()
    status, address = device.driver.cuMemAlloc(size)
    if status == OUT_OF_MEMORY and gc.collect():  # models that were dropped, and not closed
        status, address = device.driver.cuMemAlloc(size)
    if status == OUT_OF_MEMORY:
        raise out_of_memory(device, megabytes(size))
    device.check("cuMemAlloc", (status,))
    return int(address)


class Buffer:
    """A piece of a pool, returned when the last array in it is dropped."""

    __slots__ = ("_pool", "address", "size")

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self._pool, self.address, self.size = pool, address, size

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.size)


class DeviceArray:
    """Numbers on the device, row after row without gaps. Opaque but for its shape and type."""

    __slots__ = ("address", "buffer", "dtype", "shape")

    def __init__(
        self, buffer: Buffer, shape: tuple[int, ...], dtype: np.dtype, address: int | None = None
    ) -> None:
        self.buffer, self.shape, self.dtype = buffer, shape, dtype
        self.address = buffer.address if address is None else address

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def first_rows(self, count: int) -> DeviceArray:
        """A view of the first rows along the first axis."""
        return DeviceArray(self.buffer, (count, *self.shape[1:]), self.dtype, self.address)

    def view(self, start: int, shape: tuple[int, ...]) -> DeviceArray:
        """A view of another shape, from element `start` on."""
        address = self.address + start * self.dtype.itemsize
        return DeviceArray(self.buffer, shape, self.dtype, address)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name} {list(self.shape)})"


def empty(pool: Pool, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    kind = np.dtype(dtype)
    return DeviceArray(pool.take(prod(shape) * kind.itemsize), shape, kind)


class Staging:
    """Pinned pages between the host and the device, used in turn: copies need not be waited for.

    Pages are written to again only when the copy that reads them is done.
    """

    def __init__(self, device: Device, turns: int, size: int) -> None:
        self._device, self._size = device, size
        self._pages: deque[_Page] = deque()
        try:
            for _ in range(turns):
                self._pages.append(_Page(device, size))
        except BaseException:
            self.close()
            raise

    def send(self, host: HostArray, address: int) -> None:
        """Copy an array up; it may be changed as soon as this returns."""
        raw = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
        for start in range(0, len(raw), self._size):
            part = raw[start : start + self._size]
            page = self._next_page()
            page.bytes[: len(part)] = part
            self._device.call(
                "cuMemcpyHtoDAsync", address + start, page.address, len(part), self._device.stream
            )
            self._device.call("cuEventRecord", page.event, self._device.stream)

    def close(self) -> None:
        while self._pages:
            self._pages.pop().close()

    def _next_page(self) -> _Page:
        self._device.make_current()
        page = self._pages[0]
        self._pages.rotate(-1)
        self._device.call("cuEventSynchronize", page.event)
        return page


class _Page:
    def __init__(self, device: Device, size: int) -> None:
        device.make_current()
        self._driver = device.driver
        status, address = self._driver.cuMemHostAlloc(size, 0)
        if status == OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f"the machine has no room for {megabytes(size)} of pinned memory, through which "
                "copies to the GPU go; close other programs, or raise the limit of locked memory "
                "(ulimit -l)"
            )
        device.check("cuMemHostAlloc", (status,))
        self.address = int(address)
        self.bytes = _pinned_view(self.address, size)
        try:
            self.event = device.call("cuEventCreate", NO_TIMING)
        except BaseException:
            self._driver.cuMemFreeHost(self.address)
            raise

    def close(self) -> None:
        self._driver.cuEventDestroy(self.event)
        self._driver.cuMemFreeHost(self.address)


class ReadbackBuffer:
    """A pinned page that results come down to: `begin` the copy, later `wait` for the numbers."""

    def __init__(self, device: Device, size: int) -> None:
        self._device, self._page = device, _Page(device, size)
        self.size = size

    def begin(self, source: DeviceArray) -> None:
        device = self._device
        device.make_current()
        device.call(
            "cuMemcpyDtoHAsync", self._page.address, source.address, source.nbytes, device.stream
        )
        device.call("cuEventRecord", self._page.event, device.stream)

    def wait(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostArray:
        """A copy of what came down."""
        self._device.make_current()
        self._device.call("cuEventSynchronize", self._page.event)
        count = prod(shape) * np.dtype(dtype).itemsize
        return self._page.bytes[:count].copy().view(dtype).reshape(shape)

    def close(self) -> None:
        self._page.close()


def _pinned_view(address: int, size: int) -> HostArray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def download(device: Device, array: DeviceArray) -> HostArray:
    """The numbers, once they are computed."""
    device.make_current()
    host = np.empty(array.shape, array.dtype)
    if array.size:
        target: Any = host.ctypes.data
        device.call("cuMemcpyDtoHAsync", target, array.address, array.nbytes, device.stream)
    device.synchronize()
    return host


def copy_on_device(device: Device, source: DeviceArray, target: DeviceArray) -> None:
    assert source.nbytes == target.nbytes
    device.make_current()
    device.call("cuMemcpyDtoDAsync", target.address, source.address, source.nbytes, device.stream)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
