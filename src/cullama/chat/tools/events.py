"""What an answer consists of: text, reasoning, and calls of functions; as events, and as a whole.

Values only, which each route of the server words in its own way. `parser.py` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4


class Text(NamedTuple):
    """A piece of what is said to the user."""

    text: str


class Reasoning(NamedTuple):
    """A piece of what the model thinks before it answers."""

    text: str


class CallBegun(NamedTuple):
    """A call begins; its arguments follow."""

    call: int  # 0 for the first of an answer
    name: str  # of a function that was offered


class CallArguments(NamedTuple):
    """A piece of a call's arguments, which are one JSON object together."""

    call: int
    text: str


Event: TypeAlias = Text | Reasoning | CallBegun | CallArguments


@dataclass(frozen=True)
class ToolCall:
    """A call of a function.

    Attributes:
        id: names the call in the message with its result.
        name: of the function.
        arguments: a JSON object, as the model wrote it; cut off where the answer was.
    """

    id: str
    name: str
    arguments: str

    def entry(self) -> dict[str, Any]:
        """Return the call as an entry of a message's tool_calls."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class ParsedAnswer:
    """A whole answer.

    Attributes:
        text: what is said to the user; without calls and reasoning, it is what was generated.
        reasoning: what the model thought before.
        calls: in the order in which they were written.
    """

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]

    @classmethod
    def of(cls, events: Iterable[Event]) -> ParsedAnswer:
        """Put together the events of one answer; its calls get new ids."""
        texts: list[str] = []
        thoughts: list[str] = []
        names: list[str] = []
        arguments: list[list[str]] = []
        for event in events:
            if isinstance(event, Text):
                texts.append(event.text)
            elif isinstance(event, Reasoning):
                thoughts.append(event.text)
            elif isinstance(event, CallBegun):
                names.append(event.name)
                arguments.append([])
            else:
                arguments[event.call].append(event.text)
        calls = [
            ToolCall(new_call_id(), name, "".join(parts))
            for name, parts in zip(names, arguments, strict=True)
        ]
        return cls("".join(texts), "".join(thoughts), tuple(calls))

    def message(self) -> dict[str, Any]:
        """Return the answer as a message, in the form that conversations have it."""
        content = None if self.calls and not self.text else self.text
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [call.entry() for call in self.calls]
        return message


def new_call_id() -> str:
    return f"call_{uuid4().hex[:24]}"
