"""Finds which part of a rendered conversation each of its messages is, in tokens.

The conversation is rendered once more with a mark at the end of each message's text, and cut behind
the tokens that end turns. Where the marks change anything else of what the template writes, or the
parts are encoded otherwise than the whole, it is not known, and said so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .format import NO_VARIABLES, ChatFormat
from .messages import Message

# U+FDD2 and U+FDD3 are noncharacters, which no text meant for interchange contains.
_MARK = re.compile("\ufdd2([0-9]+)\ufdd3")


class PromptTurn(NamedTuple):
    """The tokens from `start` to before `end`."""

    message: int | None  # its place in the conversation; None: the template's own
    start: int
    end: int


def prompt_turns(
    format: ChatFormat,
    messages: Sequence[Message],
    ids: Sequence[int],
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> list[PromptTurn] | None:
    """Return the turns of a conversation that was encoded as `ids`; None where that is not known.

    What the template writes around a message is part of its turn. The conversation is one to be
    answered. Messages without a text, such as tool calls, are found by their neighbours.

    Raises:
        UsageError, ChatTemplateError: as `ChatFormat.write`.
    """
    marked = format.write([_marked(index, it) for index, it in enumerate(messages)], **variables)
    parts = list(_parts(marked, format.end_texts))
    turns: list[PromptTurn] = []
    encoded: list[int] = []
    for message, text in parts:
        start = len(encoded)
        encoded += format.encode_continuation(text) if start else format.encode(text)
        turns.append(PromptTurn(message, start, len(encoded)))
    return _with_silent(turns, messages) if encoded == [*ids] else None


def _marked(index: int, message: Message) -> Message:
    """Return a message with a mark behind its text, before the white space that ends it."""
    content, mark = message.get("content"), f"\ufdd2{index}\ufdd3"
    if isinstance(content, list) and content and isinstance(content[-1], Mapping):
        last = {**content[-1], "text": f"{content[-1].get('text', '')}{mark}"}
        return {**message, "content": [*content[:-1], last]}
    if not isinstance(content, str):
        return message
    text = content.rstrip()
    return {**message, "content": text + mark + content[len(text) :]}


def _parts(marked: str, ends: Sequence[str]) -> Iterator[tuple[int | None, str]]:
    """Cut a marked text behind tokens that end turns; where there are none, behind the marks."""
    end = "|".join(map(re.escape, ends))
    turns = re.findall(f"(?s).*?(?:{end})\\s*|.+", marked) if ends else [marked]
    for turn in turns:
        marks, start = list(_MARK.finditer(turn)), 0
        for mark, following in zip(marks, [*marks[1:], None], strict=False):
            stop = mark.end() if following else len(turn)
            yield int(mark[1]), _MARK.sub("", turn[start:stop])
            start = stop
        if not marks:
            yield None, turn


def _with_silent(turns: list[PromptTurn], messages: Sequence[Message]) -> list[PromptTurn]:
    """Give each message without a text the template's turn behind the message before it; but not
    the last turn, which is the header of the answer."""
    places = {turn.message: place for place, turn in enumerate(turns)}
    for index in range(1, len(messages)):
        place = places.get(index - 1, len(turns)) + 1
        if index not in places and place < len(turns) - 1 and turns[place].message is None:
            turns[place] = turns[place]._replace(message=index)
            places[index] = place
    return turns
