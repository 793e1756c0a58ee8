"""Free ranges of memory: what is taken is never given twice, and what comes back is whole again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cullama.model.free_list import FreeList

SIZE = 1000


def free_list() -> FreeList:
    ranges = FreeList()
    ranges.give_back(0, SIZE)
    return ranges


def test_the_lowest_range_with_room_is_taken_first() -> None:
    ranges = free_list()
    assert [ranges.take(size) for size in (10, 20, 30)] == [0, 10, 30]
    ranges.give_back(10, 20)
    ranges.give_back(0, 10)
    assert ranges.take(25) == 0  # the two have joined
    assert ranges.take(5) == 25
    assert ranges.take(5) == 60


def test_nothing_is_returned_where_no_range_is_large_enough() -> None:
    ranges = free_list()
    assert ranges.take(SIZE + 1) is None
    assert ranges.take(SIZE) == 0
    assert ranges.take(1) is None
    assert not ranges.has_room_for(1)


def test_ranges_that_do_not_touch_are_not_joined() -> None:
    ranges = FreeList()
    ranges.give_back(0, 100)
    ranges.give_back(101, 100)
    assert not ranges.has_room_for(101)
    ranges.give_back(100, 1)
    assert ranges.take(201) == 0


def test_ranges_added_side_by_side_are_never_joined() -> None:
    """They may be two allocations of a driver that takes no range across both."""
    ranges = FreeList()
    ranges.add(0, 100)
    assert ranges.take(60) == 0
    ranges.add(100, 100)
    assert ranges.take(80) == 100
    assert ranges.take(40) == 60
    for start, size in ((100, 80), (60, 40), (0, 60)):
        ranges.give_back(start, size)
    assert not ranges.has_room_for(101)
    assert (ranges.take(100), ranges.take(100), ranges.take(1)) == (0, 100, None)


def test_a_cleared_list_has_no_room() -> None:
    ranges = free_list()
    assert ranges.take(1) == 0
    ranges.give_back(0, 1)
    ranges.clear()
    assert ranges.take(1) is None


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8)), max_size=60))
def test_taken_ranges_never_overlap_and_all_of_it_comes_back(wishes: list[tuple[int, int]]) -> None:
    ranges, held = free_list(), list[tuple[int, int]]()
    for size, dropped in wishes:
        if held and dropped:
            ranges.give_back(*held.pop(dropped % len(held)))
        start = ranges.take(size)
        if start is not None:
            assert 0 <= start <= start + size <= SIZE
            assert all(start + size <= s or s + n <= start for s, n in held)
            held.append((start, size))
    for each in held:
        ranges.give_back(*each)
    assert ranges.take(SIZE) == 0
