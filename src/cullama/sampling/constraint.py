"""Says what form an answer must have: a JSON schema, any JSON object, a regular expression, a
grammar, or one of several texts.

It is text, checked as far as that needs no vocabulary: `engine/grammars.py` compiles it for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ..errors import ConstraintError
from .json_schema import MAX_SCHEMA_BYTES, schema_text

Kind: TypeAlias = Literal["json_schema", "json_object", "regex", "grammar", "choice"]

MAX_TEXT_BYTES = MAX_SCHEMA_BYTES  # of a regular expression, a grammar, or all choices
MAX_CHOICES = 1024

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_JSON_RULE = re.compile(r"%json\s*(?=\{)")


class Checked(str):
    """A text that was checked, so that copies of parameters do not check it again."""

    __slots__ = ()


class Constraint(NamedTuple):
    """The form of an answer. It can be hashed, and pickled."""

    kind: Kind  # the name of the parameter
    text: str  # the schema as JSON, the expression, the grammar, or the choices as JSON


def checked_schema(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, Checked):
        return value
    return Checked(schema_text(value, name))


def checked_text(name: str, value: Any) -> str | None:
    """Return a regular expression or a grammar. Raises ConstraintError."""
    if value is None or isinstance(value, Checked):
        return value
    if not isinstance(value, str) or not value:
        raise ConstraintError(name, f"{name} is {value!r:.60}, expected a text that is not empty")
    _check_size(name, value)
    if name == "grammar":
        json_rules(value)
    return Checked(value)


def checked_choice(name: str, value: Any) -> tuple[str, ...]:
    """Return the texts to choose from. Raises ConstraintError."""
    if value is None:
        return ()
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(each, str) and each for each in value):
        words = f"{name} is {value!r:.60}, expected a list of texts that are not empty"
        raise ConstraintError(name, words)
    if len(value) > MAX_CHOICES:
        raise ConstraintError(
            name, f"{name} has {len(value)} texts, expected {MAX_CHOICES} at most"
        )
    _check_size(name, "".join(value))
    return tuple(dict.fromkeys(map(str, value)))


def constraint_of(
    json_schema: str | None,
    json_object: bool,
    regex: str | None,
    grammar: str | None,
    choice: Sequence[str],
) -> Constraint | None:
    """Return the one that was asked for, if any. Raises ConstraintError where there are several."""
    texts: dict[Kind, str | None] = {
        "json_schema": json_schema,
        "json_object": "" if json_object else None,
        "regex": regex,
        "grammar": grammar,
        "choice": json.dumps(choice) if choice else None,
    }
    given = [Constraint(kind, text) for kind, text in texts.items() if text is not None]
    if len(given) > 1:
        first, second, *_ = (each.kind for each in given)
        words = f"{first} and {second} were given, expected one of {', '.join(texts)}"
        raise ConstraintError(second, words)
    return given[0] if given else None


def _check_size(name: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConstraintError(name, f"{name} holds half of a surrogate pair") from None
    if size > MAX_TEXT_BYTES:
        raise ConstraintError(
            name, f"{name} has {size:,} bytes, expected at most {MAX_TEXT_BYTES:,}"
        )


def json_rules(grammar: str) -> tuple[list[str], list[str]]:
    """Split a Lark grammar at the schemas of its `%json {…}` rules: the texts around them, and the
    schemas between, checked as json_schema is.

    "x-guidance" can switch checks off, so it is refused elsewhere, too. Raises ConstraintError.
    """
    texts: list[str] = []
    schemas: list[str] = []
    start = 0
    for rule in _JSON_RULE.finditer(grammar):
        if rule.start() < start:  # inside the schema before it
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(grammar, rule.end())
        except (ValueError, RecursionError) as error:
            raise ConstraintError("grammar", f"grammar: %json is not JSON: {error}") from None
        schemas.append(schema_text(schema, "grammar"))
        texts.append(grammar[start : rule.end()])
        start = end
    texts.append(grammar[start:])
    if "x-guidance" in _ESCAPE.sub(lambda match: chr(int(match[1], 16)), "".join(texts)):
        raise ConstraintError("grammar", "grammar names 'x-guidance', which is not supported")
    return texts, schemas
