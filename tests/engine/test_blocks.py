"""The pool never gives a block twice, and gives neighbours wherever there are enough of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.engine.blocks import BlockPool


def runs_of(blocks: set[int]) -> list[list[int]]:
    """Neighbours together, in order."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def fewest_runs(count: int, free: set[int]) -> int:
    """How many runs of free blocks are needed at least."""
    taken, lengths = 0, sorted((len(run) for run in runs_of(free)), reverse=True)
    for needed, length in enumerate(lengths, 1):
        taken += length
        if taken >= count:
            return needed
    raise AssertionError("asked only where there are enough")


def check_allocation(blocks: list[int], count: int, free: set[int]) -> None:
    assert len(blocks) == len(set(blocks)) == count
    assert set(blocks) <= free
    fitting = [run for run in runs_of(free) if len(run) >= count]
    if count and fitting:
        assert blocks == list(range(blocks[0], blocks[0] + count))
        home = next(run for run in fitting if blocks[0] in run)
        assert len(home) == min(map(len, fitting))
        assert blocks[0] == home[0]  # so that what is left of the run stays one
    elif count:
        breaks = sum(second != first + 1 for first, second in pairwise(blocks))
        assert breaks + 1 <= fewest_runs(count, free)


# A positive number allocates so many blocks, any other gives back what somebody owns.
actions = st.lists(st.integers(-8, 9), max_size=40)


@given(count=st.integers(0, 24), actions=actions)
def test_a_pool_is_a_set_of_free_blocks(count: int, actions: list[int]) -> None:
    pool, free, owners = BlockPool(count), set(range(count)), list[list[int]]()
    for action in actions:
        if action >= 0:
            blocks = pool.allocate(action)
            assert (blocks is None) == (action > len(free))
            if blocks is not None:
                check_allocation(blocks, action, free)
                free -= set(blocks)
                owners.append(blocks)
        elif owners:
            blocks = owners.pop(action % len(owners))
            pool.release(blocks)
            free |= set(blocks)
        assert pool.free == len(free)
        assert pool.free + sum(map(len, owners)) == pool.count == count
    for blocks in owners:
        pool.release(blocks)
    assert pool.allocate(count) == list(range(count))


def test_a_refusal_takes_nothing() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [0, 1, 2]
    assert pool.allocate(2) is None
    assert pool.free == 1
    assert pool.allocate(1) == [3]
    assert pool.allocate(1) is None


def test_nothing_can_be_had_of_a_full_pool_and_of_an_empty_one() -> None:
    pool = BlockPool(0)
    assert pool.allocate(0) == []
    assert pool.allocate(1) is None


def test_the_smallest_gap_that_is_large_enough_is_filled() -> None:
    pool = BlockPool(12)
    gaps = [pool.allocate(size) for size in (4, 1, 2, 1, 3, 1)]
    for index in (0, 2, 4):
        pool.release(gaps[index] or [])
    assert pool.allocate(2) == [5, 6]
    assert pool.allocate(3) == [8, 9, 10]
    assert pool.allocate(1) == [0]


def test_without_a_gap_that_is_large_enough_the_longest_come_first() -> None:
    pool = BlockPool(9)
    gaps = [pool.allocate(size) for size in (1, 1, 2, 1, 3, 1)]
    for index in (0, 2, 4):
        pool.release(gaps[index] or [])
    assert pool.allocate(5) == [5, 6, 7, 2, 3]
    assert pool.free == 1


def test_neighbours_given_back_apart_are_neighbours_again() -> None:
    pool = BlockPool(6)
    first, second = pool.allocate(3), pool.allocate(3)
    pool.release(second or [])
    pool.release(first or [])
    assert pool.allocate(6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("blocks", [[0], [1], [2, 2]])
def test_giving_back_what_nobody_has_is_our_mistake(blocks: list[int]) -> None:
    pool = BlockPool(3)
    owned = pool.allocate(3) or []
    pool.release(owned[:2])
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)
