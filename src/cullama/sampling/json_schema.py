"""Checks a JSON schema before it is compiled: its size, and that no keyword of it is passed over.

JSON Schema 2020-12, as far as llguidance enforces it. What only annotates (titles, unknown
keywords, formats that are not enforced) is dropped; what would have to be enforced and cannot be is
refused by name. It reads no files and fetches no references.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from ..errors import ConstraintError

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32  # levels of objects and arrays

# Whose values are one schema, a list of schemas, and schemas by name.
_ONE = ("items", "additionalProperties")
_LIST = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
# Whose values are read as they are.
_PLAIN = (
    *("type", "enum", "const", "$ref", "required", "minProperties", "maxProperties"),
    *("minItems", "maxItems", "minLength", "maxLength", "pattern", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
)
# Assertions that cannot be followed token by token.
_UNSUPPORTED = (
    *("not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies"),
    *("uniqueItems", "contains", "minContains", "maxContains", "additionalItems"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef", "x-guidance"),
)
FORMATS = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
)

Schema: TypeAlias = "dict[str, Any] | bool"


def schema_text(value: Any, param: str = "json_schema") -> str:
    """Return a schema as JSON, with what only annotates left out.

    Args:
        value: the schema as an object, as JSON text, or a pydantic model, which has one.
        param: what it was given as, for errors.

    Raises:
        ConstraintError: no schema, too large a one, or one with a keyword that is not supported.
    """
    if callable(to_schema := getattr(value, "model_json_schema", None)):
        value = to_schema()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(param, f"{param} is not JSON: {error}") from None
    if not isinstance(value, Mapping) and value is not True:
        shown = f"{value!r:.60}"
        raise ConstraintError(param, f"{param} is {shown}, expected a JSON schema, an object")
    try:
        written = json.dumps({} if value is True else value, ensure_ascii=False, allow_nan=False)
        size = len(written.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(param, f"{param} cannot be written as JSON: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        words = f"{param} has {size:,} bytes, expected at most {MAX_SCHEMA_BYTES:,}"
        raise ConstraintError(param, words)
    checked = _Check(param).schema(json.loads(written), "", 1)
    return json.dumps(checked, ensure_ascii=False, separators=(",", ":"))


class _Check:
    """Walks through a schema; `where` is a JSON pointer to the part it has come to."""

    def __init__(self, param: str) -> None:
        self._param = param

    def refuse(self, where: str, words: str) -> NoReturn:
        raise ConstraintError(self._param, f"{self._param}, at {where or '/'}: {words}")

    def schema(self, value: Any, where: str, depth: int) -> Schema:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            self.refuse(where, f"found {value!r:.60}, expected a schema: an object, true or false")
        self._check_depth(where, depth)
        checked: dict[str, Any] = {}
        for keyword, part in value.items():
            at = f"{where}/{keyword}"
            if keyword in _UNSUPPORTED:
                if keyword == "uniqueItems" and part is False:
                    continue
                self.refuse(at, f"the keyword {keyword!r} is not supported; leave it out")
            if keyword in _ONE:
                checked[keyword] = self.schema(part, at, depth + 1)
            elif keyword in _LIST:
                checked[keyword] = self._several(part, at, depth + 1, list)
            elif keyword in _NAMED:
                checked[keyword] = self._several(part, at, depth + 1, dict)
            elif keyword in _PLAIN:
                self._check_plain(keyword, part, at, depth)
                checked[keyword] = part
            elif keyword == "format" and part in FORMATS:
                checked[keyword] = part
        return checked

    def _several(self, value: Any, where: str, depth: int, kind: type) -> Any:
        """Check a list of schemas, or schemas by name."""
        self._check_depth(where, depth)
        if kind is dict and isinstance(value, dict):
            return {
                name: self.schema(each, f"{where}/{name}", depth + 1)
                for name, each in value.items()
            }
        if kind is list and isinstance(value, list) and value:
            return [
                self.schema(each, f"{where}/{index}", depth + 1) for index, each in enumerate(value)
            ]
        expected = "schemas by name" if kind is dict else "a list of schemas"
        return self.refuse(where, f"found {value!r:.60}, expected {expected}")

    def _check_plain(self, keyword: str, value: Any, where: str, depth: int) -> None:
        """Check what llguidance would refuse without naming the keyword, and nesting."""
        self._check_levels(value, where, depth)
        expected = _EXPECTED.get(keyword)
        if expected is not None and not expected[1](value):
            self.refuse(where, f"{keyword!r} is {value!r:.60}, expected {expected[0]}")

    def _check_levels(self, value: Any, where: str, depth: int) -> None:
        if isinstance(value, dict | list):
            self._check_depth(where, depth + 1)
            for each in value.values() if isinstance(value, dict) else value:
                self._check_levels(each, where, depth + 1)

    def _check_depth(self, where: str, depth: int) -> None:
        if depth > MAX_SCHEMA_DEPTH:
            self.refuse(where[:120], f"nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value % 1 == 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


_COUNT: tuple[str, Callable[[Any], bool]] = ("a whole number from 0 on", _is_count)
_NUMBER: tuple[str, Callable[[Any], bool]] = ("a number", _is_number)
_TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
_EXPECTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "type": (
        "one of null, boolean, object, array, number, string, integer, or a list of them",
        lambda value: (
            isinstance(value, str | list)
            and bool(value)
            and all(
                isinstance(each, str) and each in _TYPES
                for each in ([value] if isinstance(value, str) else value)
            )
        ),
    ),
    "enum": ("a list of values, at least one", _is_list),
    "$ref": (
        "a place in this schema, such as #/$defs/name",
        lambda value: isinstance(value, str) and value.startswith("#"),
    ),
    "required": (
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
    "pattern": ("a regular expression", lambda value: isinstance(value, str)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT),
    **dict.fromkeys(("minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
}
