"""Reads the calls of an answer that comes in pieces, in forms other than one JSON object a call.

A reader runs until it needs more text, and goes on there with the next piece, so that each form is
read as if all of the text were there. The forms are subclasses: marks around names and arguments
(`marked_parser.py`), and Python (`python_parser.py`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from .events import CallArguments, CallBegun, Event, Text
from .functions import FunctionTool
from .thoughts import overlap

# Reads on from a position; None asks for more text. Returns a position, or NOT_FOUND.
Reading: TypeAlias = Generator[None, None, int]

NOT_FOUND = -1
_SPACE = re.compile(r"\s*")


class CallReader(Protocol):
    """Reads calls in some form; `count` and `is_done` as of `ScanningParser`."""

    @property
    def count(self) -> int: ...
    @property
    def is_done(self) -> bool: ...
    def add(self, piece: str) -> list[Event]: ...
    def finish(self) -> list[Event]: ...


class ScanningParser(ABC):
    """Reads calls that an opening mark begins. White space around a call belongs to no text.

    Args:
        opening: what a call, or a list of them, begins with; white space in it may be any.
        functions: those that are offered.
        is_constrained: a grammar holds the model to valid calls, so that they are told as they
            come; others when they are complete, since nothing can be taken back.
        is_single: read one call, and leave out what comes behind it.

    Attributes:
        count: how many calls have begun.
        is_done: the one call that is allowed has come.
    """

    def __init__(
        self,
        opening: str,
        functions: Iterable[FunctionTool],
        is_constrained: bool = False,
        is_single: bool = False,
    ) -> None:
        self._opening = opening.split()
        self._schemas = {it.name: it.parameters or {} for it in functions}
        self._is_constrained, self._is_single = is_constrained, is_single
        self.count, self.is_done = 0, False
        self._rest = ""  # what no event has told of
        self._is_end = False
        self._events: list[Event] = []
        self._reading = self._read()

    def add(self, piece: str) -> list[Event]:
        """Take the next piece; returns what is certain with it."""
        self._rest += piece
        return self._advance()

    def finish(self) -> list[Event]:
        """Return the events of what was held back: nothing comes any more."""
        self._is_end = True
        return self._advance()

    def _advance(self) -> list[Event]:
        self._events = []
        next(self._reading, None)
        return self._events

    def _read(self) -> Generator[None, None, None]:
        is_behind = False  # what is read next stands behind a call
        while True:
            begun = yield from self.read_text(is_behind)
            if begun == NOT_FOUND:
                return
            before = self.count
            at = yield from self.match(self._opening, begun)
            end = (yield from self.read_calls(at)) if at != NOT_FOUND else NOT_FOUND
            if end == NOT_FOUND and self.count > before:  # cut off in spite of the grammar
                end = len(self._rest)
            if end == NOT_FOUND:  # an opening mark that opens none is text
                self.tell_text(begun + len(self._opening[0]))
                is_behind = False
                continue
            self._rest, is_behind = self._rest[end:], True
            if self._is_single and self.count:
                self.is_done = True
                return

    @abstractmethod
    def read_calls(self, at: int) -> Reading:
        """Read what an opening mark has begun, and tell of its calls; returns where it ends."""

    # --- text

    def read_text(self, is_behind: bool) -> Reading:
        """Tell of the text before an opening mark; returns where in the rest that is, or NOT_FOUND
        where the answer ends without one."""
        lead = self._opening[0]
        while True:
            if is_behind:
                self._rest = self._rest.lstrip()
                is_behind = not self._rest
            at = self._rest.find(lead)
            if at != NOT_FOUND:
                self.tell_text(len(self._rest[:at].rstrip()))
                return self._rest.find(lead)
            if self._is_end:
                self.tell_text(len(self._rest))
                return NOT_FOUND
            kept = self._rest[: len(self._rest) - overlap(self._rest, lead)]
            self.tell_text(len(kept.rstrip()))
            yield

    def tell_text(self, end: int) -> None:
        text, self._rest = self._rest[:end], self._rest[end:]
        if text:
            self._events.append(Text(text))

    # --- calls

    def tell_call(self, name: str, arguments: str = "") -> None:
        """Tell that a call begins, with as much of its arguments as there is."""
        self._events.append(CallBegun(self.count, name))
        self.count += 1
        self.tell_arguments(arguments)

    def tell_arguments(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self.count - 1, text))

    # --- marks, each a list of parts between which white space may be

    def match(self, mark: Sequence[str], at: int) -> Reading:
        """Return where a mark ends that stands at a place."""
        _, end = yield from self.match_one((mark,), at)
        return end

    def match_one(
        self, marks: Sequence[Sequence[str]], at: int
    ) -> Generator[None, None, tuple[int, int]]:
        """Return which of several marks stands at a place, and where it ends."""
        while True:
            ends = [_end_of(mark, self._rest, at, self._is_end) for mark in marks]
            if None not in ends:
                break
            yield
        found = [(k, end) for k, end in enumerate(ends) if end is not None and end != NOT_FOUND]
        return found[0] if found else (NOT_FOUND, NOT_FOUND)

    def find(self, part: str, at: int) -> Reading:
        """Return where a part of a mark stands behind a place."""
        start = at
        while (found := self._rest.find(part, start)) == NOT_FOUND and not self._is_end:
            start = max(at, len(self._rest) - len(part) + 1)
            yield
        return found

    def match_pattern(
        self, pattern: re.Pattern[str], at: int
    ) -> Generator[None, None, re.Match[str] | None]:
        """Return what a pattern matches at a place, once more text cannot make it longer."""
        while True:
            found: re.Match[str] | None = pattern.match(self._rest, at)
            if self._is_end or (found.end() if found else at) < len(self._rest):
                return found
            yield


def _end_of(mark: Sequence[str], text: str, at: int, is_end: bool) -> int | None:
    """Return where a mark at a place ends; None where more text has to decide that."""
    for part in mark:
        found: Any = _SPACE.match(text, at)
        at = found.end()
        if not text.startswith(part, at):
            is_open = not is_end and part.startswith(text[at:])
            return None if is_open else NOT_FOUND
        at += len(part)
    return at
