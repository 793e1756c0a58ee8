"""Which cache blocks are free, held, or kept: numbers only, nothing of what is in them.

    free   nobody knows it
    held   by so many sequences at work
    kept   by none any more, but what is in it may be wanted again (`prefix_cache.py`)

free + held + kept = all, always. Kept blocks are given away when free ones run out, those that
were let go of first before the others.

The CPU reads blocks that lie next to each other in place, and has to gather scattered ones. So
whoever comes in is promised free blocks behind its own, to grow into: others get those only when
there is nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

TAKEN, FREE, PROMISED = 0, 1, 2  # held or kept; free; free, and the block before it wants it

MOST_PROMISED = 32  # blocks, to one sequence


class BlockPool:
    """`forget` is told of a kept block that is about to be given away."""

    def __init__(self, count: int, forget: Callable[[int], None] = lambda block: None) -> None:
        self.count = count
        self._forget = forget
        self._holders = [0] * count
        self._states = bytearray([FREE]) * count
        self._promised = 0
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

    def allocate(self, count: int, after: int | None = None, room: int = 0) -> list[int] | None:
        """Blocks for one sequence, or None where there are too few.

        `after`: the block that the first of them should follow. `room`: how many more the sequence
        may come to need.
        """
        if count > self.available:
            return None
        if after is not None and (blocks := self._following(after, count)):
            return self._take(blocks)
        room = min(room, MOST_PROMISED)
        while self._has_to_give_away(count, room):
            self._give_away_the_oldest()
        blocks = self._take(self._neighbours(count, room) or self._scattered(count))
        if blocks:
            self._promise(blocks[-1] + 1, room)
        return blocks

    def withdraw(self, block: int) -> None:
        """Nobody will grow into what lies behind this block."""
        behind = block + 1
        while behind < self.count and self._states[behind] == PROMISED:
            self._states[behind] = FREE
            self._promised -= 1
            behind += 1

    def hold(self, blocks: Iterable[int]) -> None:
        """One more sequence works with blocks that are held or kept."""
        for block in blocks:
            assert self._states[block] == TAKEN, f"block {block} is free, and cannot be shared"
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

    def _take(self, blocks: list[int]) -> list[int]:
        for block in blocks:
            self._promised -= self._states[block] == PROMISED
            self._states[block] = TAKEN
            self._holders[block] = 1
        self.free -= len(blocks)
        return blocks

    def _has_to_give_away(self, count: int, room: int) -> bool:
        """Kept blocks, for free ones: more than are needed only while most of all are kept."""
        is_full_of_kept = len(self._kept) > self.count // 2
        return self.free < count or (is_full_of_kept and self.free - self._promised < count + room)

    def _give_away_the_oldest(self) -> None:
        oldest = next(iter(self._kept))
        self._forget(oldest)
        self.discard(oldest)

    def _free(self, block: int) -> None:
        self._states[block] = FREE
        self.free += 1

    def _promise(self, start: int, room: int) -> None:
        for block in range(start, min(start + room, self.count)):
            if self._states[block] != FREE:
                return
            self._states[block] = PROMISED
            self._promised += 1

    def _following(self, block: int, count: int) -> list[int] | None:
        start, end = block + 1, block + 1 + count
        is_free = end <= self.count and TAKEN not in self._states[start:end]
        return list(range(start, end)) if is_free else None

    def _neighbours(self, count: int, room: int) -> list[int] | None:
        for wanted in (count + room, count + room // 2, count):
            start = self._states.find(bytes([FREE]) * wanted)
            if start >= 0:
                return list(range(start, start + count))
        return None

    def _scattered(self, count: int) -> list[int]:
        """Those that were promised to others come last."""
        blocks: list[int] = []
        for state in (FREE, PROMISED):
            block = self._states.find(state)
            while block >= 0 and len(blocks) < count:
                blocks.append(block)
                block = self._states.find(state, block + 1)
        return blocks
