"""Checks messages, and copies them as plain data.

A message has a role and a content: a text, or a list of parts of type text, as in OpenAI's API. It
may be None or missing beside tool calls. Further entries are data for the template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import UsageError

Message: TypeAlias = Mapping[str, Any]  # {"role": "user", "content": "Hi"}
Tools: TypeAlias = Sequence[Mapping[str, Any]] | None  # or documents
Content: TypeAlias = str | Sequence[Mapping[str, Any]]  # [{"type": "text", "text": "Hi"}]

MAX_DEPTH = 32  # levels of lists and objects in a message or a variable
EXAMPLE = "expected a role and a text: {'role': 'user', 'content': 'Hi'}"


def checked_message(message: Any, where: str = "a message") -> dict[str, Any]:
    """Return a copy of a message in Python's built-in types, which the caller cannot change later.

    Raises:
        UsageError: it is none; its content holds something else than text; or it holds objects.
    """
    if not isinstance(message, Mapping):
        raise UsageError(f"{where} is {message!r:.80}, {EXAMPLE}")
    copy: dict[str, Any] = plain_data(where, message)
    if not isinstance(copy.get("role"), str):
        raise UsageError(f"{where} {_found(copy, 'role')}, {EXAMPLE}")
    if not isinstance(copy.get("tool_calls") or [], list):
        raise UsageError(f"{where} has the tool_calls {copy['tool_calls']!r:.80}, expected a list")
    content = copy.get("content")
    if isinstance(content, list) and content:
        for part in content:
            _check_part(part, where)
    elif not isinstance(content, str) and not (content is None and copy.get("tool_calls")):
        raise UsageError(f"{where} {_found(message, 'content')}, {EXAMPLE}")
    return copy


def content_text(message: Message) -> str:
    """Return the content of a message as one text: parts stand in lines of their own."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
        return "\n".join(map(str, parts))
    return str(content or "")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return
    if isinstance(kind, str) and kind != "text":
        raise UsageError(
            f"{where} has a part of type {kind!r:.80}, expected text: the model reads nothing else"
        )
    raise UsageError(
        f"{where} has the part {part!r:.80}, expected {{'type': 'text', 'text': 'Hi'}}"
    )


def _found(message: Message, name: str) -> str:
    return f"has the {name} {message[name]!r:.80}" if name in message else f"has no {name}"


# --- plain data

# Subclasses, such as enumerations, have methods of their own, and may print differently.
_EXACT: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}


def plain_data(where: str, value: Any, depth: int = 0) -> Any:
    """Copy a value into Python's built-in types.

    Raises:
        UsageError: it holds something else, or is nested too deeply.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind, exact in _EXACT.items():
        if isinstance(value, kind):
            return exact(value)
    if depth == MAX_DEPTH:
        raise UsageError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise UsageError(f"{where} holds a key that is not a string")
        return {
            str.__str__(key): plain_data(where, inner, depth + 1) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain_data(where, inner, depth + 1) for inner in value]
    raise UsageError(
        f"{where} holds a {type(value).__name__}, expected texts, numbers, lists and objects"
    )


def map_texts(change: Callable[[str], str], value: Any) -> Any:
    """Return plain data with each text in it changed, those that are keys, too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_texts(change, inner) for inner in value]
    if isinstance(value, dict):
        return {change(key): map_texts(change, inner) for key, inner in value.items()}
    return value
