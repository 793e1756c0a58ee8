"""The pool never gives a block twice, and gives neighbours wherever there are enough of them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cullama.engine.blocks import FREE, MAX_RESERVED, RESERVED, USED, BlockPool


class Blocks(RuleBasedStateMachine):
    """A pool beside a list of who has what, and what was kept in which order."""

    @initialize(count=st.one_of(st.integers(0, 12), st.integers(0, 120)))
    def open(self, count: int) -> None:
        self.told: list[int] = []
        self.pool = BlockPool(count, self.told.append)
        self.free = set(range(count))
        self.cached: list[int] = []
        self.owners: list[list[int]] = []

    @rule(
        count=st.one_of(st.integers(0, 8), st.integers(0, 90)),
        growth=st.sampled_from([0, 0, 1, 5, 200]),
        data=st.data(),
    )
    def allocate(self, count: int, growth: int, data: st.DataObject) -> None:
        after = data.draw(st.none() | st.integers(0, max(0, self.pool.count - 1)), "after")
        self.told.clear()
        follows = after is not None and count > 0 and self.is_free(after + 1, count)
        evicted = [] if follows else self.to_be_evicted(count, min(growth, MAX_RESERVED))
        unreserved = self.unreserved | set(evicted)
        blocks = self.pool.allocate(count, after, growth)
        if count > len(self.free) + len(self.cached):
            assert blocks is None
            assert self.told == []
            return
        assert self.told == evicted
        del self.cached[: len(evicted)]
        self.free.update(evicted)
        assert blocks is not None
        self.check(blocks, count, after if follows else None, unreserved)
        self.free.difference_update(blocks)
        self.owners.append(blocks)

    @property
    def unreserved(self) -> set[int]:
        return {block for block in self.free if self.pool._states[block] == FREE}

    def to_be_evicted(self, count: int, growth: int) -> list[int]:
        """The oldest: as many as are needed, and for growth to grow while most blocks are kept."""
        free, unreserved, cached = len(self.free), len(self.unreserved), len(self.cached)
        if count > free + cached:
            return []
        given = 0
        while free + given < count or (
            cached - given > self.pool.count // 2 and unreserved + given < count + growth
        ):
            given += 1
        return self.cached[:given]

    def check(self, blocks: list[int], count: int, after: int | None, unreserved: set[int]) -> None:
        assert len(blocks) == len(set(blocks)) == count
        assert self.free.issuperset(blocks)
        if after is not None:
            assert blocks[0] == after + 1
        elif count and any(unreserved.issuperset(range(s, s + count)) for s in unreserved):
            assert blocks == list(range(blocks[0], blocks[0] + count))
            assert unreserved.issuperset(blocks), "what was reserved for others"
        elif len(unreserved) >= count:
            assert unreserved.issuperset(blocks), "what was reserved for others"

    @precondition(lambda self: self.pool.count)
    @rule(which=st.integers(0, 119))
    def withdraw(self, which: int) -> None:
        self.pool.unreserve(which % self.pool.count)

    @invariant()
    def reserved_blocks_are_free(self) -> None:
        states = self.pool._states
        assert [block for block in range(self.pool.count) if states[block] != USED] == sorted(
            self.free
        )
        assert self.pool._reserved == states.count(RESERVED)

    def is_free(self, start: int, count: int) -> bool:
        return self.free.issuperset(range(start, start + count))

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 99), some=st.sets(st.integers(0, 90)))
    def share(self, which: int, some: set[int]) -> None:
        blocks = [b for i, b in enumerate(self.owners[which % len(self.owners)]) if i in some]
        self.pool.reference(blocks)
        self.owners.append(blocks)

    @precondition(lambda self: self.cached)
    @rule(which=st.sets(st.integers(0, 99), min_size=1))
    def take_up_what_was_kept(self, which: set[int]) -> None:
        blocks = list({self.cached[index % len(self.cached)] for index in which})
        self.pool.reference(blocks)
        self.cached = [block for block in self.cached if block not in blocks]
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 99), wanted=st.none() | st.sets(st.integers(0, 119)))
    def release(self, which: int, wanted: set[int] | None) -> None:
        blocks = self.owners.pop(which % len(self.owners))
        if wanted is None:
            self.pool.release(blocks)
        else:
            self.pool.release(blocks, wanted.__contains__)
        for block in blocks:
            if self.ref_counts(block) == 0 and wanted is not None and block in wanted:
                self.cached.append(block)
            elif self.ref_counts(block) == 0:
                self.free.add(block)

    @precondition(lambda self: self.pool.count)
    @rule(which=st.integers(0, 119))
    def discard(self, which: int) -> None:
        """Kept, held or free: only what was kept is let go of by it."""
        block = which % self.pool.count
        self.pool.discard(block)
        if block in self.cached:
            self.cached.remove(block)
            self.free.add(block)

    def ref_counts(self, block: int) -> int:
        return sum(block in owner for owner in self.owners)

    @invariant()
    def every_block_is_free_or_held_or_kept(self) -> None:
        held = {block for owner in self.owners for block in owner}
        assert len(self.free) + len(held) + len(self.cached) == self.pool.count
        assert (self.pool.free, self.pool.cached) == (len(self.free), len(self.cached))
        assert self.pool.referenced == len(held)
        assert self.pool.available == len(self.free) + len(self.cached)
        for block in range(self.pool.count):
            assert self.pool.ref_count(block) == self.ref_counts(block)

    def teardown(self) -> None:
        if not hasattr(self, "owners"):
            return
        for blocks in self.owners:
            self.pool.release(blocks)
        assert self.pool.referenced == 0
        self.told.clear()
        everything = self.pool.allocate(self.pool.count) or []
        assert sorted(everything) == list(range(self.pool.count))
        assert self.told == self.cached


Blocks.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestBlocks = Blocks.TestCase


def delivered(count: int, *, free: str) -> BlockPool:
    """A pool of which only some blocks are free: `free` has a dot for each of those."""
    assert len(free) == count
    pool = BlockPool(count)
    blocks = pool.allocate(count) or []
    pool.release([block for block in blocks if free[block] == "."])
    return pool


def test_a_refusal_allocates_nothing() -> None:
    forgotten: list[int] = []
    pool = BlockPool(4, forgotten.append)
    assert pool.allocate(3) == [0, 1, 2]
    pool.release([2], is_cacheable=lambda block: True)
    assert pool.allocate(3) is None
    assert (pool.free, pool.cached, pool.referenced, forgotten) == (1, 1, 2, [])
    assert pool.allocate(1) == [3]
    assert forgotten == []
    assert pool.allocate(1) == [2]
    assert forgotten == [2]
    assert pool.allocate(1) is None


def test_zero_blocks_can_always_be_allocated() -> None:
    pool = BlockPool(0)
    assert pool.allocate(0) == []
    assert pool.allocate(1) is None
    full = BlockPool(2)
    assert full.allocate(2) == [0, 1]
    assert full.allocate(0) == []
    assert full.allocate(0, after=1) == []


def test_the_block_released_first_is_evicted_first() -> None:
    forgotten: list[int] = []
    pool = BlockPool(5, forgotten.append)
    pool.allocate(5)
    pool.release([3, 1, 4, 0, 2], is_cacheable=lambda block: True)
    assert (pool.free, pool.cached, pool.available) == (0, 5, 5)
    pool.reference([1])
    pool.release([1], is_cacheable=lambda block: True)  # last again
    assert pool.allocate(2) == [3, 4]
    assert pool.allocate(3) == [0, 1, 2]
    assert forgotten == [3, 4, 0, 2, 1]


def test_free_blocks_are_allocated_before_cached_ones() -> None:
    forgotten: list[int] = []
    pool = BlockPool(4, forgotten.append)
    pool.allocate(4)
    pool.release([0, 1], is_cacheable=lambda block: True)
    pool.release([2, 3])
    assert pool.allocate(2) == [2, 3]
    assert forgotten == []


def test_the_eviction_callback_may_discard_more_blocks() -> None:
    """What follows a forgotten block is of no use either."""
    pool = BlockPool(4, on_evict=lambda block: pool.discard(block + 1))
    pool.allocate(4)
    pool.release([0, 1, 3, 2], is_cacheable=lambda block: True)
    assert pool.allocate(1) == [0]
    assert (pool.free, pool.cached) == (1, 2)
    assert pool.allocate(1) == [1]
    assert pool.allocate(1) == [3]


def test_the_blocks_behind_the_last_one_are_preferred() -> None:
    pool = delivered(8, free="..x..x..")
    assert pool.allocate(2, after=5) == [6, 7]
    assert pool.allocate(1, after=2) == [3]
    assert pool.allocate(2, after=7) == [0, 1]  # there is nothing behind the last
    assert pool.allocate(1, after=0) == [4]


def test_contiguous_blocks_are_found_where_there_are_some() -> None:
    assert delivered(9, free=".x..x...x").allocate(3) == [5, 6, 7]
    assert delivered(9, free=".x..x...x").allocate(2) == [2, 3]
    assert delivered(9, free="xxxxxxx..").allocate(2) == [7, 8]


def test_without_contiguous_blocks_any_are_allocated() -> None:
    pool = delivered(9, free=".x..x.x.x")
    assert sorted(pool.allocate(5) or []) == [0, 2, 3, 5, 7]
    assert pool.free == 0


def test_a_request_grows_into_its_reserved_blocks() -> None:
    pool = BlockPool(100)
    first, second = pool.allocate(3, growth=10) or [], pool.allocate(5, growth=10) or []
    assert (first, second) == ([0, 1, 2], [13, 14, 15, 16, 17])
    for _ in range(10):
        first += pool.allocate(1, after=first[-1]) or []
        second += pool.allocate(1, after=second[-1]) or []
    for blocks in (first, second):
        assert blocks == list(range(blocks[0], blocks[0] + len(blocks)))
    assert pool._reserved == 0


def test_reserved_blocks_are_allocated_to_others_last() -> None:
    pool = BlockPool(10)
    assert pool.allocate(2, growth=4) == [0, 1]
    assert pool.allocate(2) == [6, 7]
    assert pool.allocate(3) == [8, 9, 2]
    assert pool.allocate(1, after=1) == [3]


def test_unreserved_blocks_are_free_for_all() -> None:
    pool = BlockPool(10)
    blocks = pool.allocate(2, growth=8) or []
    pool.unreserve(blocks[-1])
    pool.release(blocks)
    assert pool.allocate(2) == [0, 1]
    assert pool._reserved == 0


def test_no_more_than_max_reserved_blocks_are_reserved() -> None:
    pool = BlockPool(1000)
    pool.allocate(1, growth=900)
    assert pool._reserved == MAX_RESERVED


def test_cached_blocks_are_evicted_for_growth_only_while_most_are_cached() -> None:
    pool = BlockPool(20)
    pool.allocate(20)
    pool.release(range(20), is_cacheable=lambda block: True)
    assert pool.allocate(1, growth=30) == [0]
    assert (pool.cached, pool.free) == (10, 9)
    pool.allocate(1, after=0)
    pool.allocate(4, growth=30)
    assert pool.cached == 10


def test_blocks_released_apart_are_contiguous_again() -> None:
    pool = BlockPool(6)
    first, second = pool.allocate(3), pool.allocate(3)
    pool.release(second or [])
    pool.release(first or [])
    assert pool.allocate(6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("blocks", [[0], [1], [2, 2]])
def test_releasing_a_free_block_is_an_assertion_error(blocks: list[int]) -> None:
    pool = BlockPool(3)
    pool.allocate(3)
    pool.release([0], is_cacheable=lambda block: True)
    pool.release([1])
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


def test_referencing_a_free_block_is_an_assertion_error() -> None:
    pool = BlockPool(3)
    pool.allocate(1)
    pool.reference([0])
    with pytest.raises(AssertionError, match="block 1 is free"):
        pool.reference([1])
