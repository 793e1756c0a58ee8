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
        self._borders: set[int] = set()  # where a range begins that is never joined to the left

    def add(self, start: int, size: int) -> None:
        """Add a range that is new: no place that is taken later reaches across its ends."""
        self._borders |= {start, start + size}
        self.give_back(start, size)

    def give_back(self, start: int, size: int) -> None:
        """Return a range that was taken.

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
        self._borders.clear()

    def _insert_returned(self) -> None:
        """Put ranges that came back in their places, joined with the neighbours they touch,
        but not across borders."""
        while self._returned:
            start, size = self._returned.popleft()
            index = bisect(self._ranges, (start, size))
            end = start + size
            is_joined = end not in self._borders and index < len(self._ranges)
            if is_joined and self._ranges[index][0] == end:
                size += self._ranges.pop(index)[1]
            if index and start not in self._borders and sum(self._ranges[index - 1]) == start:
                index -= 1
                before, room = self._ranges.pop(index)
                start, size = before, room + size
            self._ranges.insert(index, (start, size))
