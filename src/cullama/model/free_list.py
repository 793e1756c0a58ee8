"""Free ranges of memory: the lowest one that is large enough is taken first.

Steps that ask for the same sizes in the same order get the same places, which is what lets a
recorded step be replayed. It does not know whose memory it is: a place may be an address or an
offset, on the host or on a device.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque


class FreeList:
    """Ranges that are free, each a start and a size."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []  # by start; no two of them touch
        self._returned: deque[tuple[int, int]] = deque()  # not yet among them

    def give_back(self, start: int, size: int) -> None:
        """Add a range.

        May be called at any moment, even by the garbage collector in the middle of `take`.
        """
        self._returned.append((start, size))

    def take(self, size: int) -> int | None:
        """Return the start of the lowest free range of that size, or None if there is none."""
        self._insert_returned()
        for index, (start, room) in enumerate(self._ranges):
            if room > size:
                self._ranges[index] = start + size, room - size
                return start
            if room == size:
                del self._ranges[index]
                return start
        return None

    def has_room_for(self, size: int) -> bool:
        """Whether `take` would find so much in one piece."""
        self._insert_returned()
        return any(room >= size for _, room in self._ranges)

    def clear(self) -> None:
        self._ranges.clear()
        self._returned.clear()

    def _insert_returned(self) -> None:
        """Put ranges that came back in their places, joined with the neighbours they touch."""
        while self._returned:
            start, size = self._returned.popleft()
            index = bisect(self._ranges, (start, size))
            if index < len(self._ranges) and self._ranges[index][0] == start + size:
                size += self._ranges.pop(index)[1]
            if index and sum(self._ranges[index - 1]) == start:
                index -= 1
                before, room = self._ranges.pop(index)
                start, size = before, room + size
            self._ranges.insert(index, (start, size))
