"""Which cache blocks are free. Integers only.

A sequence gets all the blocks it can ever need when it starts, in one run wherever there is one:
the CPU then reads its keys and values in place.
"""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    def __init__(self, count: int) -> None:
        self.count = count
        self._is_free = [True] * count
        self.free = count

    def allocate(self, count: int) -> list[int] | None:
        """Blocks for one sequence, or None where there are too few."""
        if count > self.free:
            return None
        blocks: list[int] = []
        for start, length in self._by_fit(count):
            taken = min(length, count - len(blocks))
            blocks += range(start, start + taken)
            if len(blocks) == count:
                break
        for block in blocks:
            self._is_free[block] = False
        self.free -= count
        return blocks

    def release(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            assert not self._is_free[block], f"block {block} was released twice"
            self._is_free[block] = True
            self.free += 1

    def _by_fit(self, count: int) -> list[tuple[int, int]]:
        """Free runs, the smallest that fits whole first; where none does, the longest first."""
        runs = self._runs()
        return sorted(
            runs, key=lambda run: (run[1] < count, run[1] if run[1] >= count else -run[1])
        )

    def _runs(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        start = None
        for block, is_free in enumerate([*self._is_free, False]):
            if is_free and start is None:
                start = block
            elif not is_free and start is not None:
                runs.append((start, block - start))
                start = None
        return runs
