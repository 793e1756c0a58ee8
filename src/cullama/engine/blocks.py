"""Counts cache blocks: which are free, referenced or cached. Numbers only; not what is in them.

    free        holds nothing that could be reused
    referenced  by so many running requests: its reference count
    cached      by none, but what it holds may be found again (`prefix_cache.py`)

free + referenced + cached = all, always. Cached blocks are evicted when free ones run out, and,
while more than half of all are cached, to leave a request room to grow: the least recently released
first.

Numpy's attention reads blocks that lie next to each other in place and has to copy scattered ones
together; other kernels read the block table. So free blocks behind a request's own are reserved
for it to grow into: others get those only when there is nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# The states of a block. USED: referenced or cached. RESERVED: free, for the request before it.
USED, FREE, RESERVED = 0, 1, 2

MAX_RESERVED = 32  # blocks, for one request


class BlockPool:
    """`on_evict` is called with a cached block that is about to be allocated to another request."""

    def __init__(self, count: int, on_evict: Callable[[int], None] = lambda block: None) -> None:
        self.count = count
        self._on_evict = on_evict
        self._ref_counts = [0] * count
        self._states = bytearray([FREE]) * count
        self._reserved = 0
        self._cached: dict[int, None] = {}  # in the order in which they were released
        self.free = count

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def referenced(self) -> int:
        return self.count - self.free - len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be allocated: the free ones, and the cached ones by evicting them."""
        return self.free + len(self._cached)

    def ref_count(self, block: int) -> int:
        return self._ref_counts[block]

    def allocate(self, count: int, after: int | None = None, growth: int = 0) -> list[int] | None:
        """Return blocks for one request, or None where too few are available.

        `after`: the block that the first of them should follow. `growth`: how many more the
        request may come to need.
        """
        if count > self.available:
            return None
        if after is not None and count:
            start, end = after + 1, after + 1 + count
            if end <= self.count and USED not in self._states[start:end]:
                return self._use(list(range(start, end)))
        growth = min(growth, MAX_RESERVED)
        # For room to grow, cached blocks go only while they are more than half of all.
        while self.free < count or (
            len(self._cached) > self.count // 2 and self.free - self._reserved < count + growth
        ):
            oldest = next(iter(self._cached))
            self._on_evict(oldest)
            self.discard(oldest)

        blocks = self._use(self._find(count, growth))
        end = blocks[-1] + 1 if blocks else self.count
        for block in range(end, min(end + growth, self.count)):
            if self._states[block] != FREE:
                break
            self._states[block] = RESERVED
            self._reserved += 1
        return blocks

    def unreserve(self, block: int) -> None:
        """Let others have what was reserved behind this block: its request grows no more."""
        behind = block + 1
        while behind < self.count and self._states[behind] == RESERVED:
            self._states[behind] = FREE
            self._reserved -= 1
            behind += 1

    def reference(self, blocks: Iterable[int]) -> None:
        """Count one more request for each of these blocks, which are referenced or cached."""
        for block in blocks:
            assert self._states[block] == USED, f"block {block} is free, and cannot be shared"
            self._cached.pop(block, None)
            self._ref_counts[block] += 1

    def release(
        self, blocks: Iterable[int], is_cacheable: Callable[[int], bool] = lambda block: False
    ) -> None:
        """Count one request less for each; those of none are cached or freed."""
        for block in blocks:
            assert self._ref_counts[block], f"block {block} was released twice"
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if is_cacheable(block):
                self._cached[block] = None
            else:
                self._free(block)

    def discard(self, block: int) -> None:
        """Free a cached block, whose contents are of no use any more."""
        if block in self._cached:
            del self._cached[block]
            self._free(block)

    def _use(self, blocks: list[int]) -> list[int]:
        for block in blocks:
            self._reserved -= self._states[block] == RESERVED
            self._states[block] = USED
            self._ref_counts[block] = 1
        self.free -= len(blocks)
        return blocks

    def _free(self, block: int) -> None:
        self._states[block] = FREE
        self.free += 1

    def _find(self, count: int, growth: int) -> list[int]:
        """Return free blocks in a row, with room to grow behind them if there is such a place.

        Where none are in a row, any free blocks; those reserved for others come last.
        """
        for wanted in (count + growth, count + growth // 2, count):
            start = self._states.find(bytes([FREE]) * wanted)
            if start >= 0:
                return list(range(start, start + count))
        blocks: list[int] = []
        for state in (FREE, RESERVED):
            block = self._states.find(state)
            while block >= 0 and len(blocks) < count:
                blocks.append(block)
                block = self._states.find(state, block + 1)
        return blocks
