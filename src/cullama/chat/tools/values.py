"""Turns the text of an argument into JSON, by the type that a function's schema gives it.

Forms of calls that are no JSON write texts without quotes, so that only the schema tells the text
"3" from the number. What fits none of the types stays a text: calls that no grammar holds to their
schemas need not fit them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_REFERENCES = 32

_KINDS: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "object": dict,
    "array": list,
    "number": (int, float),
    "integer": (int, float),
    "string": str,
}
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # as many templates write them


def json_value(text: str, schema: Any, root: Mapping[str, Any], is_json: bool = False) -> str:
    """Return the text of a value as JSON.

    Args:
        schema: of the value; anything else than an object allows all types.
        root: the schema that it is part of, which it may refer to.
        is_json: texts are written as JSON, too.
    """
    types = value_types(schema, root)
    if types == {"string"} and not is_json:
        return json.dumps(text, ensure_ascii=False)
    written = _PYTHON.get(text.strip(), text.strip())
    try:
        value = _DECODER.decode(written)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if is_json or not types or any(_is_of(value, each) for each in types):
        return written
    return json.dumps(text, ensure_ascii=False)


def value_types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """Return the types that a schema allows; empty for any."""
    if not isinstance(schema, Mapping) or depth > MAX_REFERENCES:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        return value_types(referred(reference, root), root, depth + 1)
    given = schema.get("type")
    if given is not None:
        return {given} if isinstance(given, str) else {it for it in given if isinstance(it, str)}
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if isinstance(values, list) and values:
        kinds = [*_KINDS.items()]
        return {next(name for name, kind in kinds if isinstance(value, kind)) for value in values}
    for name in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(name), list):
            found = [value_types(choice, root, depth + 1) for choice in choices]
            return set().union(*found) if all(found) else set()
    return set()


def referred(reference: str, root: Mapping[str, Any]) -> Any:
    """Return the schema at a place such as "#/$defs/name"; None where there is none."""
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def strict_json(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None for anything else."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int | float) and value == value // 1
    return isinstance(value, _KINDS.get(kind, ()))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
