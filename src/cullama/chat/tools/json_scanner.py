"""Finds where a JSON value ends that comes in pieces, by its brackets and strings.

It reads each character once. Whether the value is valid, `json` decides when all of it is there.
"""

from __future__ import annotations

import re

MAX_DEPTH = 64  # of objects and lists; deeper ones count as broken

_BRACKETS = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_PARTNERS = {"}": "{", "]": "["}


class JsonScanner:
    """Scans one object or list, which starts at `start` of the text that `scan` is given.

    Attributes:
        end: where the value ends; None as long as it has not.
        is_broken: no text behind can make it valid.
        objects: where the outermost objects start: the value itself, or those in a list.
        ends: where each object and list ends, by where it starts.
    """

    def __init__(self, start: int) -> None:
        self.position = start  # scanned up to here
        self.end: int | None = None
        self.is_broken = False
        self.objects: list[int] = []
        self.ends: dict[int, int] = {}
        self._open: list[tuple[str, int]] = []
        self._is_string = False

    @property
    def is_done(self) -> bool:
        return self.end is not None or self.is_broken

    def scan(self, text: str) -> None:
        """Go on to the end of the text, which has grown since the last time, or of the value."""
        while not self.is_done:
            found = (_IN_STRING if self._is_string else _BRACKETS).search(text, self.position)
            if found is None:
                self.position = len(text)
                return
            if found[0] == "\\":
                if found.end() == len(text):  # what it escapes has not come
                    self.position = found.start()
                    return
                self.position = found.end() + 1
                continue
            self.position = found.end()
            sign, at, depth = found[0], found.start(), len(self._open)
            if sign == '"':
                self._is_string = not self._is_string
            elif sign in "{[":
                if sign == "{" and (depth == 0 or (depth == 1 and self._open[0][0] == "[")):
                    self.objects.append(at)
                self._open.append((sign, at))
                self.is_broken = depth == MAX_DEPTH
            elif depth and self._open[-1][0] == _PARTNERS.get(sign):
                self.ends[self._open.pop()[1]] = at + 1
                self.end = at + 1 if depth == 1 else None
            else:  # a control character in a string, or a bracket without its partner
                self.is_broken = True
