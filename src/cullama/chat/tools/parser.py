"""Reads calls that are JSON objects, and reasoning, from an answer that comes in pieces.

What looks like a call and is none stays text: JSON that is broken, or names a function that was not
offered. So a call is told when it is complete, since nothing can be taken back; where a grammar
holds the model to it (`is_constrained`), its arguments are told as they come. How the text is cut
into pieces changes nothing but how its events are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, NoReturn

from .events import CallArguments, CallBegun, Event, Reasoning, Text
from .json_scanner import JsonScanner
from .scanning import CallReader
from .syntax import ARGUMENT_KEYS, NAME_KEYS, CallSyntax
from .thoughts import ThoughtSplitter, overlap

_PYTHON_TAG = "<|python_tag|>"  # Llama 3 may begin a call with it
_HEADER = re.compile(
    rf'\{{\s*"(?:{"|".join(NAME_KEYS)})"\s*:\s*"(?P<name>[\w.-]+)"\s*,'
    rf'\s*"(?:{"|".join(ARGUMENT_KEYS)})"\s*:\s*(?=\{{)'
)


class AnswerParser:
    """Takes the pieces of one answer, and returns its events.

    Args:
        thoughts: None where the model is not known to think.
        calls: None where no functions are offered.
    """

    def __init__(self, thoughts: ThoughtSplitter | None, calls: CallReader | None) -> None:
        self._thoughts, self._calls = thoughts, calls
        self._begun = 0  # characters that are not new

    def begin(self, text: str) -> list[Event]:
        """Take what the answer begins with, where it goes on with one that was there before."""
        self._begun = len(text)
        return self.add(text)

    def add(self, piece: str, is_last: bool = False) -> list[Event]:
        """Take the next piece, which may be empty; behind the last one nothing comes."""
        spoken: list[Reasoning | Text] = [Text(piece)] if piece else []
        if self._thoughts is not None:
            spoken = self._thoughts.add(piece, is_last)
        if self._calls is None:
            return [*spoken]
        events: list[Event] = []
        for event in spoken:
            events += self._calls.add(event.text) if isinstance(event, Text) else [event]
        return [*events, *self._calls.finish()] if is_last else events

    @property
    def reasoning_length(self) -> int:
        """How many characters of what is new were reasoning, its marks included."""
        if self._thoughts is None or not self._thoughts.has_thought:
            return 0
        return max(0, self._thoughts.length - self._begun)

    @property
    def has_call(self) -> bool:
        return self._calls is not None and self._calls.count > 0

    @property
    def is_done(self) -> bool:
        """Whether the one call has come that is allowed: what else comes is left out."""
        return self._calls is not None and self._calls.is_done


class _Body(NamedTuple):
    """The JSON behind an opening mark."""

    start: int  # of it
    scanner: JsonScanner


class CallParser:
    """Reads calls in one syntax. White space around a call belongs to no text.

    Args:
        names: of the functions that are offered.
        is_constrained: a grammar holds the model to valid calls.
        is_single: read one call, and leave out what comes behind it.

    Attributes:
        count: how many calls have begun.
        is_done: the one call that is allowed has come.
    """

    def __init__(
        self,
        syntax: CallSyntax,
        names: Collection[str],
        is_constrained: bool = False,
        is_single: bool = False,
    ) -> None:
        self._syntax, self._names = syntax, names
        self._is_constrained, self._is_single = is_constrained, is_single
        self.count, self.is_done = 0, False
        self._rest = ""  # what no event has told of
        self._is_start = True  # nothing but white space has come since the start, or a call
        self._opened: int | None = None  # where in the rest the opening mark ends
        self._body: _Body | None = None
        self._told: list[int] = []  # of each call in the body: how many characters of arguments

    def add(self, piece: str) -> list[Event]:
        """Take the next piece; returns what is certain with it."""
        self._rest += piece
        return [*self._events(is_end=False)]

    def finish(self) -> list[Event]:
        """Return the events of what was held back: nothing comes any more."""
        return [*self._events(is_end=True)]

    def _events(self, is_end: bool) -> Iterator[Event]:
        while self._rest and not self.is_done:
            if self._opened is None:
                text = self._text_before_call(is_end)
                if text:
                    self._is_start = False
                    yield Text(text)
                if self._opened is None:
                    return
            if self._body is None and not self._find_body(self._opened, is_end):
                return
            if self._body is not None:
                self._body.scanner.scan(self._rest)
                if self._is_constrained:
                    yield from self._begun_calls(self._body)
                if not (is_end or self._body.scanner.is_done):
                    return
            calls = self._whole_calls()
            behind, closing = self._behind() if calls else "", self._syntax.closing
            if calls and not is_end and closing.startswith(behind) and behind != closing:
                return  # a part of the closing mark has come, or nothing yet
            for place, (name, arguments) in enumerate(calls):
                yield from self._tell(place, name, arguments)
            yield from self._go_on(bool(calls))

    # --- before a call

    def _text_before_call(self, is_end: bool) -> str:
        """Take the text before an opening mark, or before what may become one."""
        opening = self._syntax.opening
        if self._is_start and self.count:
            self._rest = self._rest.lstrip()
        if not opening:
            return self._text_unless_call(is_end)
        at = self._rest.find(opening)
        if at >= 0:
            text = self._rest[:at].rstrip()
            self._opened = at - len(text) + len(opening)
        elif is_end:
            text = self._rest
        else:
            text = self._rest[: len(self._rest) - overlap(self._rest, opening)].rstrip()
        self._rest = self._rest[len(text) :]
        return text

    def _text_unless_call(self, is_end: bool) -> str:
        """Take all text, unless the answer begins with a call, or goes on with one, which may
        have a semicolon before it."""
        lead = ";" if self.count else _PYTHON_TAG
        begun = self._rest.lstrip().removeprefix(lead).lstrip()
        if self._is_start and begun.startswith("[" if self._syntax.is_list else "{"):
            self._opened = len(self._rest) - len(begun)
            return ""
        if self._is_start and not is_end and lead.startswith(begun):
            return ""
        text, self._rest = self._rest, ""
        return text

    # --- a call

    def _find_body(self, opened: int, is_end: bool) -> bool:
        """Find where the JSON starts; returns False where more text has to decide that."""
        behind = self._rest[opened:].lstrip()
        if not behind and not is_end:
            return False
        if behind[:1] in ("{", "["):
            start = len(self._rest) - len(behind)
            self._body = _Body(start, JsonScanner(start))
        return True

    def _begun_calls(self, body: _Body) -> Iterator[Event]:
        """Tell of calls whose arguments have begun, as far as they have come."""
        for place, start in enumerate(body.scanner.objects):
            header = _HEADER.match(self._rest, start)
            if header is None or header["name"] not in self._names:
                return
            begin = header.end()
            end = body.scanner.ends.get(begin, body.scanner.position)
            yield from self._tell(place, header["name"], self._rest[begin:end])

    def _tell(self, place: int, name: str, arguments: str) -> Iterator[Event]:
        """Tell of a call in the body what was not told yet."""
        if self._is_single and place:
            return
        if place == len(self._told):
            self._told.append(0)
            self.count += 1
            yield CallBegun(self.count - 1, name)
        new = arguments[self._told[place] :]
        if new:
            self._told[place] = len(arguments)
            yield CallArguments(self.count - len(self._told) + place, new)

    def _whole_calls(self) -> list[tuple[str, str]]:
        """Return names and arguments; none where it is no complete call of what is offered."""
        body = self._body
        if body is None or body.scanner.end is None:
            return []
        text = self._rest[body.start : body.scanner.end]
        try:
            value = _DECODER.decode(text)
            starts = [start - body.start for start in body.scanner.objects]
            if isinstance(value, list) and len(starts) != len(value):  # not only objects
                return []
            calls = [_call_at(text, it) for it in starts]
        except (ValueError, RecursionError):
            return []
        return calls if all(name in self._names for name, _ in calls) else []

    # --- behind a call

    def _behind(self) -> str:
        assert self._body is not None
        return self._rest[self._body.scanner.end :].lstrip()

    def _go_on(self, is_call: bool) -> Iterator[Text]:
        """Go on behind a call; or behind an opening mark that was none, which is text."""
        text, self._is_start = "", is_call
        if is_call:
            self._rest = self._behind().removeprefix(self._syntax.closing)
            self.is_done = self._is_single
        elif self._told:  # it was cut off, or is broken in spite of the grammar
            assert self._body is not None
            self._rest = self._rest[self._body.scanner.position :]
        else:
            end = self._opened or 1
            text, self._rest = self._rest[:end], self._rest[end:]
        self._opened, self._body, self._told = None, None, []
        if text:
            yield Text(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_SPACE = re.compile(r"[ \t\r\n]*")


def _call_at(text: str, start: int) -> tuple[str, str]:
    """Return the name and the arguments, as they are written, of an object in valid JSON.

    Raises:
        ValueError: it has no name, or no arguments.
    """
    entries: dict[str, tuple[Any, str]] = {}
    position = start
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, _skip_space(text, position + 1))
        begin = _skip_space(text, _skip_space(text, position) + 1)
        value, end = _DECODER.raw_decode(text, begin)
        entries[key] = (value, text[begin:end])
        position = _skip_space(text, end)
    name, _ = next((entries[key] for key in NAME_KEYS if key in entries), (None, ""))
    arguments = next((entries[key] for key in ARGUMENT_KEYS if key in entries), (None, ""))
    value, written = arguments
    if isinstance(value, str):  # JSON in a text, as some models write it
        value, written = _DECODER.decode(value), value
    if not isinstance(name, str) or not isinstance(value, dict):
        raise ValueError("no call")
    return name, written


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()
