"""Which cache blocks are free, held, or kept: numbers only, nothing of what is in them.

    free   nobody knows it
    held   by so many sequences at work
    kept   by none any more, but what is in it may be wanted again (`prefix_cache.py`)

free + held + kept = all, always. Kept blocks are given away when free ones run out, those that
were let go of first before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

ROOM_TO_GROW = 16  # blocks left free behind a new sequence, as long as there are enough


class BlockPool:
    """`forget` is told of a kept block that is about to be given away."""

    def __init__(self, count: int, forget: Callable[[int], None] = lambda block: None) -> None:
        self.count = count
        self._forget = forget
        self._holders = [0] * count
        self._is_free = bytearray(b"\1" * count)
        self._kept: dict[int, None] = {}  # in the order in which they were let go of
        self.free = count

    @property
    def kept(self) -> int:
        return len(self._kept)

    @property
    def held(self) -> int:
        return self.count - self.free - len(self._kept)

    @property
    def available(self) -> int:
        """What can be had: free blocks, and kept ones at the price of what is in them."""
        return self.free + len(self._kept)

    def holders(self, block: int) -> int:
        return self._holders[block]

    def allocate(self, count: int, after: int | None = None) -> list[int] | None:
        """Blocks for one sequence, or None where there are too few.

        Neighbours wherever possible: the CPU reads those in place. `after` is the block that the
        first of them should follow.
        """
        if count > self.available:
            return None
        while self.free < count:
            oldest = next(iter(self._kept))
            self._forget(oldest)
            self.discard(oldest)
        blocks = self._neighbours(count, after) or self._scattered(count)
        for block in blocks:
            self._is_free[block] = 0
            self._holders[block] = 1
        self.free -= count
        return blocks

    def hold(self, blocks: Iterable[int]) -> None:
        """One more sequence works with blocks that are held or kept."""
        for block in blocks:
            assert not self._is_free[block], f"block {block} is free, and cannot be shared"
            self._kept.pop(block, None)
            self._holders[block] += 1

    def release(
        self, blocks: Iterable[int], is_wanted: Callable[[int], bool] = lambda block: False
    ) -> None:
        """One sequence less; whoever was the last keeps a block that `is_wanted`, or frees it."""
        for block in blocks:
            assert self._holders[block], f"block {block} was released twice"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if is_wanted(block):
                self._kept[block] = None
            else:
                self._free(block)

    def discard(self, block: int) -> None:
        """What is in the block is of no use any more; frees it if it was only kept."""
        if block in self._kept:
            del self._kept[block]
            self._free(block)

    def _free(self, block: int) -> None:
        self._is_free[block] = 1
        self.free += 1

    def _neighbours(self, count: int, after: int | None) -> list[int] | None:
        start = self._start_of_run(count, after)
        return None if start < 0 else list(range(start, start + count))

    def _start_of_run(self, count: int, after: int | None) -> int:
        """Of so many free neighbours, with room to grow where there is some; −1: there are none."""
        if after is not None and self._is_free.startswith(b"\1" * count, after + 1):
            return after + 1
        if self._is_free.startswith(b"\1" * (count + ROOM_TO_GROW)):
            return 0
        roomy = self._is_free.find(b"\1" * (count + 2 * ROOM_TO_GROW))
        if roomy >= 0:  # the room before it is for whoever has the blocks before that
            return roomy + ROOM_TO_GROW
        return self._is_free.find(b"\1" * count)

    def _scattered(self, count: int) -> list[int]:
        blocks: list[int] = []
        block = -1
        while len(blocks) < count:
            block = self._is_free.find(1, block + 1)
            blocks.append(block)
        return blocks
