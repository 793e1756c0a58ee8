"""The pool, on a device that hands out addresses without memory."""

from __future__ import annotations

import gc
import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cullama.cuda.memory import ALIGNMENT, Buffer, DeviceArray, Pool, empty
from cullama.errors import DeviceMemoryError

ARENA = 64 * ALIGNMENT


class CountingDevice:
    """Hands out addresses, and records which are allocated."""

    name, index = "a device", 0

    def __init__(self, size: int = 1 << 30) -> None:
        self.size, self.next, self.out = size, 1 << 20, dict[int, int]()
        self.driver = SimpleNamespace(cuMemAlloc=self.take, cuMemFree=self.free)

    def make_current(self) -> None: ...

    def take(self, size: int) -> tuple[int, int]:
        if sum(self.out.values()) + size > self.size:
            return 2, 0
        address, self.next = self.next, self.next + 2 * size
        self.out[address] = size
        return 0, address

    def free(self, address: int) -> tuple[int]:
        del self.out[address]
        return (0,)

    def check(self, function: str, result: tuple[int]) -> None:
        assert result[0] == 0

    @property
    def free_and_total(self) -> tuple[int, int]:
        return self.size - sum(self.out.values()), self.size


def pool_of(device: Any, arena: int = ARENA) -> Pool:
    return Pool(device, arena)


def test_the_lowest_free_address_comes_first() -> None:
    pool = pool_of(CountingDevice())
    taken: list[Buffer | None] = [pool.allocate(1) for _ in range(5)]
    addresses = [buffer.address for buffer in taken if buffer]
    assert addresses == sorted(addresses)
    taken[1] = taken[3] = None
    assert pool.allocate(1).address == addresses[1]


def test_a_step_that_is_repeated_gets_the_same_addresses() -> None:
    pool = pool_of(CountingDevice())

    def step() -> list[int]:
        x = empty(pool, (3, 50), np.float32)
        seen = [x.address]
        for width in (700, 20, 700):
            x, y = empty(pool, (width,), np.float32), x
            seen += [x.address, y.address]
        return seen

    first = step()
    assert [step() for _ in range(20)] == [first] * 20
    assert pool.arenas == 1


def test_buffers_never_overlap_and_are_aligned() -> None:
    draw = random.Random(7)
    device = CountingDevice()
    pool = pool_of(device)
    held: list[Buffer] = []
    for _ in range(2000):
        if held and draw.random() < 0.5:
            held.pop(draw.randrange(len(held)))
        else:
            held.append(pool.allocate(draw.choice([0, 1, 255, 256, 257, 5000, ARENA, 2 * ARENA])))
        spans = sorted((buffer.address, buffer.address + buffer.size) for buffer in held)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert all(start % ALIGNMENT == 0 for start, _ in spans)


def test_adjacent_free_ranges_are_merged() -> None:
    """A large buffer then fits where small ones were."""
    pool = pool_of(CountingDevice())
    small = [pool.allocate(ALIGNMENT) for _ in range(64)]
    random.Random(1).shuffle(small)
    small.clear()
    pool.allocate(ARENA)
    assert pool.arenas == 1


def test_memory_is_kept_while_an_array_or_a_view_of_it_is_alive() -> None:
    pool = pool_of(CountingDevice())
    array: DeviceArray | None = empty(pool, (4, 8), np.float32)
    assert array is not None
    address, view = array.address, array.first_rows(2)
    array = None
    assert pool.allocate(1).address != address
    del view
    gc.collect()
    assert pool.allocate(1).address == address


def test_close_frees_every_arena() -> None:
    device = CountingDevice()
    pool = pool_of(device)
    held = [pool.allocate(ARENA) for _ in range(3)]
    assert len(device.out) == 3
    pool.close()
    assert not device.out
    del held  # dropped after the pool was closed: nothing happens


def test_an_out_of_memory_error_says_how_much_was_needed_and_what_to_lower() -> None:
    pool = pool_of(CountingDevice(size=10_000_000))
    with pytest.raises(
        DeviceMemoryError, match=r"no room for 20 MB: 10 MB of 10 MB are free.*Lower"
    ):
        pool.allocate(20_000_000)
    pool.allocate(5_000_000)  # and a smaller one still fits
