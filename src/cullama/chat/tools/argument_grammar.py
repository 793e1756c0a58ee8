"""Writes the grammar of arguments that are no JSON object: between marks, and Python's.

Each argument of a function's schema is a rule of its own, in the order of the schema; those that
are not required may be left out. Texts between marks are free until the closing mark; other values
are JSON under their schemas. What a schema asks for beyond that is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ...errors import ConstraintError
from .syntax import ParameterMarks
from .values import referred, value_types

# Of the arguments as a whole.
_KNOWN = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
EMPTY = '""'
_TEXT_KEYWORDS = ("pattern", "format")  # of texts without quotes


class Lark:
    """The rules of a grammar, and the marks that are tokens in it."""

    def __init__(self, token_ids: Mapping[str, int]) -> None:
        self._ids = token_ids
        longest_first = sorted(token_ids, key=len, reverse=True)
        self._tokens = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self.rules = ["TEXT: /(?s:.*)/"]

    def mark(self, text: str) -> str:
        """Return what stands for a mark, of which parts may be tokens."""
        parts = self._tokens.split(text)
        written = [
            f"<[{self._ids[part]}]>" if part in self._ids else self.text(part) for part in parts
        ]
        return " ".join(filter(None, written))

    def begins_with_token(self, text: str) -> bool:
        return self._tokens.match(text) is not None

    def lead(self, mark: str) -> str:
        """Return what a mark begins with: a token, or text up to a space, or to a token."""
        text, *parts = self._tokens.split(mark)
        return text.split()[0] if text else parts[0] if parts else ""

    def text(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False) if text else ""


def marked_arguments(
    lark: Lark, marks: ParameterMarks, schema: Mapping[str, Any], prefix: str, what: str
) -> str:
    """Return what arguments between marks are, for the rule of a call.

    Args:
        schema: of all of them, an object, as `schema_text` leaves it.
        prefix: of the names of new rules.
        what: names the schema in errors.

    Raises:
        ConstraintError: a keyword that cannot be followed in this form.
    """
    terms = []
    for index, (name, each, is_required) in enumerate(_properties(schema, what)):
        rule = f"{prefix}{index}"
        value = _marked_value(lark, marks, each, schema, rule, f"{what}, at /properties/{name}")
        begin = f"{lark.mark(marks.opening)} {lark.text(name)} {lark.mark(marks.keyed)}"
        lark.rules.append(f"{rule}: {begin} {value}")
        terms.append(rule if is_required else f"{rule}?")
    if not terms and schema.get("additionalProperties") is not False:
        value = _marked_value(lark, marks, True, schema, f"{prefix}any", what)
        begin = f"{lark.mark(marks.opening)} /[A-Za-z_][\\w-]{{0,63}}/ {lark.mark(marks.keyed)}"
        lark.rules.append(f"{prefix}any: {begin} {value}")
        terms.append(f"{prefix}any*")
    return " ".join(terms)


def _marked_value(
    lark: Lark, marks: ParameterMarks, schema: Any, root: Mapping[str, Any], rule: str, what: str
) -> str:
    """Return what a value and its closing mark are."""
    closing, types = lark.mark(marks.closing), value_types(schema, root)
    if marks.is_json or (types and "string" not in types):
        return f"{_json(lark, schema, root, f'{rule}_value')} {closing}"
    found = _resolved(schema, root)
    for choices in (found.get("enum"), [found["const"]] if "const" in found else None):
        if choices is not None:
            values = [it if isinstance(it, str) else json.dumps(it) for it in choices]
            return f"({' | '.join(lark.text(value) or EMPTY for value in values)}) {closing}"
    branches = [found.get(name, ()) for name in ("anyOf", "oneOf", "allOf")]
    texts = [found, *(_resolved(each, root) for branch in branches for each in branch)]
    for keyword in _TEXT_KEYWORDS:
        if any(keyword in each for each in texts):
            words = f"{keyword!r} cannot be followed in the form in which this model writes texts"
            _refuse(what, f"{words}; leave it out")
    shortest, longest = found.get("minLength"), found.get("maxLength")
    # Where it ends is known by its closing mark, which is a token, or the first of its kind.
    is_token = lark.begins_with_token(marks.closing.lstrip())
    lazy, text = "" if is_token else "[lazy]", "TEXT"
    if shortest is not None or longest is not None:
        length = f"{{{int(shortest or 0)},{'' if longest is None else int(longest)}}}"
        mark = re.escape(marks.closing.split()[0]).replace("/", "\\/")
        text = f"{rule.upper()}_TEXT"
        lark.rules.append(f"{text}: /(?s:.{length})/ & ~/(?s:.*){mark}(?s:.*)/")
    lark.rules.append(f"{rule}_value{lazy}: {text} {closing}")
    return f"{rule}_value"


def python_arguments(lark: Lark, schema: Mapping[str, Any], prefix: str, what: str) -> str:
    """Return what Python's arguments are, for the rule of a call; as `marked_arguments`."""
    properties = _properties(schema, what)
    if not properties and schema.get("additionalProperties") is not False:
        lark.rules.append(f'{prefix}any: /[A-Za-z_]\\w{{0,63}}/ "=" {prefix}json')
        lark.rules.append(f"{prefix}json: %json {{}}")
        return f'({prefix}any (", " {prefix}any)*)?'
    # What may follow where an argument was written before, and where none was.
    behind = alone = EMPTY
    for index, (name, each, is_required) in reversed([*enumerate(properties)]):
        if not name.isidentifier():
            _refuse(what, f"the name {name!r:.60} is none that Python has")
        rule = f"{prefix}{index}"
        value = _python_value(lark, each, schema, f"{rule}_value")
        lark.rules.append(f'{rule}: "{name}=" {value}')
        lark.rules.append(
            f'{rule}_behind: ", " {rule} {behind}' + ("" if is_required else f" | {behind}")
        )
        lark.rules.append(f"{rule}_first: {rule} {behind}" + ("" if is_required else f" | {alone}"))
        behind, alone = f"{rule}_behind", f"{rule}_first"
    return alone


def _python_value(lark: Lark, schema: Any, root: Mapping[str, Any], rule: str) -> str:
    found = _resolved(schema, root)
    if found.get("type") == "boolean" and not {"enum", "const"} & found.keys():
        return '("True" | "False")'
    if found.get("type") == "null":
        return '"None"'
    return _json(lark, schema, root, rule)


# --- schemas


def _properties(schema: Mapping[str, Any], what: str) -> list[tuple[str, Any, bool]]:
    """Return names, schemas, and whether they are required, in order."""
    for keyword in schema.keys() - _KNOWN:
        words = f"the keyword {keyword!r} cannot be followed for the arguments as a whole"
        _refuse(what, f"{words} in the form in which this model writes them; leave it out")
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    required = schema.get("required", [])
    for name in required:
        properties.setdefault(name, True)
    return [
        (name, each, name in required) for name, each in properties.items() if each is not False
    ]


def _json(lark: Lark, schema: Any, root: Mapping[str, Any], rule: str) -> str:
    """Write the rule of a value in JSON, and return its name."""
    whole = dict(schema) if isinstance(schema, Mapping) else {}
    defined = {name: root[name] for name in ("$defs", "definitions") if name in root}
    lark.rules.append(f"{rule}: %json {json.dumps({**whole, **defined}, ensure_ascii=False)}")
    return rule


def _resolved(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema's keywords, those that it refers to included."""
    found: dict[str, Any] = {}
    for _ in range(32):
        if not isinstance(schema, Mapping):
            break
        found = {**schema, **found}
        if not isinstance(reference := schema.get("$ref"), str):
            break
        schema = referred(reference, root)
    return found


def _refuse(what: str, words: str) -> NoReturn:
    raise ConstraintError(what, f"{what}: {words}")
