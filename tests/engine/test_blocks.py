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
        self.forgotten: list[int] = []
        self.pool = BlockPool(count, self.forgotten.append)
        self.free = set(range(count))
        self.kept: list[int] = []
        self.owners: list[list[int]] = []

    @rule(
        count=st.one_of(st.integers(0, 8), st.integers(0, 90)),
        growth=st.sampled_from([0, 0, 1, 5, 200]),
        data=st.data(),
    )
    def allocate(self, count: int, growth: int, data: st.DataObject) -> None:
        after = data.draw(st.none() | st.integers(0, max(0, self.pool.count - 1)), "after")
        self.forgotten.clear()
        follows = after is not None and count > 0 and self.is_free(after + 1, count)
        given_away = [] if follows else self.to_be_given_away(count, min(growth, MAX_RESERVED))
        unpromised = self.unpromised | set(given_away)
        blocks = self.pool.allocate(count, after, growth)
        if count > len(self.free) + len(self.kept):
            assert blocks is None
            assert self.forgotten == []
            return
        assert self.forgotten == given_away
        del self.kept[: len(given_away)]
        self.free.update(given_away)
        assert blocks is not None
        self.check(blocks, count, after if follows else None, unpromised)
        self.free.difference_update(blocks)
        self.owners.append(blocks)

    @property
    def unpromised(self) -> set[int]:
        return {block for block in self.free if self.pool._states[block] == FREE}

    def to_be_given_away(self, count: int, growth: int) -> list[int]:
        """The oldest: as many as are needed, and for growth to grow while most blocks are kept."""
        free, unpromised, kept = len(self.free), len(self.unpromised), len(self.kept)
        if count > free + kept:
            return []
        given = 0
        while free + given < count or (
            kept - given > self.pool.count // 2 and unpromised + given < count + growth
        ):
            given += 1
        return self.kept[:given]

    def check(self, blocks: list[int], count: int, after: int | None, unpromised: set[int]) -> None:
        assert len(blocks) == len(set(blocks)) == count
        assert self.free.issuperset(blocks)
        if after is not None:
            assert blocks[0] == after + 1
        elif count and any(unpromised.issuperset(range(s, s + count)) for s in unpromised):
            assert blocks == list(range(blocks[0], blocks[0] + count))
            assert unpromised.issuperset(blocks), "what was promised to others"
        elif len(unpromised) >= count:
            assert unpromised.issuperset(blocks), "what was promised to others"

    @precondition(lambda self: self.pool.count)
    @rule(which=st.integers(0, 119))
    def withdraw(self, which: int) -> None:
        self.pool.unreserve(which % self.pool.count)

    @invariant()
    def what_is_promised_is_free(self) -> None:
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

    @precondition(lambda self: self.kept)
    @rule(which=st.sets(st.integers(0, 99), min_size=1))
    def take_up_what_was_kept(self, which: set[int]) -> None:
        blocks = list({self.kept[index % len(self.kept)] for index in which})
        self.pool.reference(blocks)
        self.kept = [block for block in self.kept if block not in blocks]
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
            if self.holders(block) == 0 and wanted is not None and block in wanted:
                self.kept.append(block)
            elif self.holders(block) == 0:
                self.free.add(block)

    @precondition(lambda self: self.pool.count)
    @rule(which=st.integers(0, 119))
    def discard(self, which: int) -> None:
        """Kept, held or free: only what was kept is let go of by it."""
        block = which % self.pool.count
        self.pool.discard(block)
        if block in self.kept:
            self.kept.remove(block)
            self.free.add(block)

    def holders(self, block: int) -> int:
        return sum(block in owner for owner in self.owners)

    @invariant()
    def every_block_is_free_or_held_or_kept(self) -> None:
        held = {block for owner in self.owners for block in owner}
        assert len(self.free) + len(held) + len(self.kept) == self.pool.count
        assert (self.pool.free, self.pool.cached) == (len(self.free), len(self.kept))
        assert self.pool.referenced == len(held)
        assert self.pool.available == len(self.free) + len(self.kept)
        for block in range(self.pool.count):
            assert self.pool.ref_count(block) == self.holders(block)

    def teardown(self) -> None:
        if not hasattr(self, "owners"):
            return
        for blocks in self.owners:
            self.pool.release(blocks)
        assert self.pool.referenced == 0
        self.forgotten.clear()
        everything = self.pool.allocate(self.pool.count) or []
        assert sorted(everything) == list(range(self.pool.count))
        assert self.forgotten == self.kept


Blocks.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestBlocks = Blocks.TestCase


def delivered(count: int, *, free: str) -> BlockPool:
    """A pool of which only some blocks are free: `free` has a dot for each of those."""
    assert len(free) == count
    pool = BlockPool(count)
    blocks = pool.allocate(count) or []
    pool.release([block for block in blocks if free[block] == "."])
    return pool


def test_a_refusal_takes_nothing() -> None:
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


def test_of_nothing_there_is_always_enough() -> None:
    pool = BlockPool(0)
    assert pool.allocate(0) == []
    assert pool.allocate(1) is None
    full = BlockPool(2)
    assert full.allocate(2) == [0, 1]
    assert full.allocate(0) == []
    assert full.allocate(0, after=1) == []


def test_what_was_let_go_of_first_is_given_away_first() -> None:
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


def test_free_blocks_go_before_kept_ones() -> None:
    forgotten: list[int] = []
    pool = BlockPool(4, forgotten.append)
    pool.allocate(4)
    pool.release([0, 1], is_cacheable=lambda block: True)
    pool.release([2, 3])
    assert pool.allocate(2) == [2, 3]
    assert forgotten == []


def test_whoever_is_told_may_discard_more() -> None:
    """What follows a forgotten block is of no use either."""
    pool = BlockPool(4, on_evict=lambda block: pool.discard(block + 1))
    pool.allocate(4)
    pool.release([0, 1, 3, 2], is_cacheable=lambda block: True)
    assert pool.allocate(1) == [0]
    assert (pool.free, pool.cached) == (1, 2)
    assert pool.allocate(1) == [1]
    assert pool.allocate(1) == [3]


def test_the_blocks_behind_the_last_one_come_first() -> None:
    pool = delivered(8, free="..x..x..")
    assert pool.allocate(2, after=5) == [6, 7]
    assert pool.allocate(1, after=2) == [3]
    assert pool.allocate(2, after=7) == [0, 1]  # there is nothing behind the last
    assert pool.allocate(1, after=0) == [4]


def test_neighbours_are_found_where_there_are_some() -> None:
    assert delivered(9, free=".x..x...x").allocate(3) == [5, 6, 7]
    assert delivered(9, free=".x..x...x").allocate(2) == [2, 3]
    assert delivered(9, free="xxxxxxx..").allocate(2) == [7, 8]


def test_without_neighbours_any_blocks_will_do() -> None:
    pool = delivered(9, free=".x..x.x.x")
    assert sorted(pool.allocate(5) or []) == [0, 2, 3, 5, 7]
    assert pool.free == 0


def test_a_sequence_grows_into_what_it_was_promised() -> None:
    pool = BlockPool(100)
    first, second = pool.allocate(3, growth=10) or [], pool.allocate(5, growth=10) or []
    assert (first, second) == ([0, 1, 2], [13, 14, 15, 16, 17])
    for _ in range(10):
        first += pool.allocate(1, after=first[-1]) or []
        second += pool.allocate(1, after=second[-1]) or []
    for blocks in (first, second):
        assert blocks == list(range(blocks[0], blocks[0] + len(blocks)))
    assert pool._reserved == 0


def test_a_promise_is_kept_as_long_as_there_is_anything_else() -> None:
    pool = BlockPool(10)
    assert pool.allocate(2, growth=4) == [0, 1]
    assert pool.allocate(2) == [6, 7]
    assert pool.allocate(3) == [8, 9, 2]
    assert pool.allocate(1, after=1) == [3]


def test_a_promise_that_is_withdrawn_binds_nobody() -> None:
    pool = BlockPool(10)
    blocks = pool.allocate(2, growth=8) or []
    pool.unreserve(blocks[-1])
    pool.release(blocks)
    assert pool.allocate(2) == [0, 1]
    assert pool._reserved == 0


def test_nobody_is_promised_more_than_enough() -> None:
    pool = BlockPool(1000)
    pool.allocate(1, growth=900)
    assert pool._reserved == MAX_RESERVED


def test_room_to_grow_is_made_of_what_is_kept_only_while_most_blocks_are() -> None:
    pool = BlockPool(20)
    pool.allocate(20)
    pool.release(range(20), is_cacheable=lambda block: True)
    assert pool.allocate(1, growth=30) == [0]
    assert (pool.cached, pool.free) == (10, 9)
    pool.allocate(1, after=0)
    pool.allocate(4, growth=30)
    assert pool.cached == 10


def test_neighbours_given_back_apart_are_neighbours_again() -> None:
    pool = BlockPool(6)
    first, second = pool.allocate(3), pool.allocate(3)
    pool.release(second or [])
    pool.release(first or [])
    assert pool.allocate(6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("blocks", [[0], [1], [2, 2]])
def test_giving_back_what_nobody_has_is_our_mistake(blocks: list[int]) -> None:
    pool = BlockPool(3)
    pool.allocate(3)
    pool.release([0], is_cacheable=lambda block: True)
    pool.release([1])
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


def test_sharing_what_nobody_knows_is_our_mistake() -> None:
    pool = BlockPool(3)
    pool.allocate(1)
    pool.reference([0])
    with pytest.raises(AssertionError, match="block 1 is free"):
        pool.reference([1])
