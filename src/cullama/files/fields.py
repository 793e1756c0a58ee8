"""Reads the settings in a model file with types: each value is checked for kind and range.

Settings are a JSON object or any mapping; messages say `FILE: FIELD is FOUND, expected EXPECTED`.
It does not know what any field means.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from ..errors import ModelFileError
from .regular_file import open_regular_file, short_repr

Default = TypeVar("Default")

MISSING: Any = object()  # as a default: the field is required

# Larger than any real model, small enough that products of sizes stay sane.
MAX_COUNT = 1 << 31

MAX_DEPTH = 32  # levels of a JSON file
# Limits that keep the Python objects made of a settings file near 64 MiB. An index of 65,536
# tensors fits; a tokenizer's vocabulary does not, and has limits of its own.
MAX_FILE_BYTES = 8 << 20
MAX_VALUES = 3 << 16


def load_json(
    path: Path, max_bytes: int = MAX_FILE_BYTES, max_values: int = MAX_VALUES
) -> dict[str, Any]:
    """Read the object in a JSON file, refusing what JSON parsers disagree about.

    Raises:
        ModelFileError: not readable, not JSON, not an object, too large or too deep, a duplicate
            key, or NaN.
    """
    with open_regular_file(path, "JSON") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        _fail(path, f"size is more than {max_bytes:,} bytes, expected at most that")
    # Each value but the first of its list or object stands behind a comma.
    values = sum(content.count(sign) for sign in (b",", b"[", b"{"))
    if values > max_values:
        _fail(path, f"number of values is {values:,}, expected at most {max_values:,}")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=lambda pairs: _unique(path, pairs),
            # Python neither reads nor shows integers of thousands of digits; no field holds one.
            parse_int=lambda digits: int(digits) if len(digits) < 1000 else float(digits),
            parse_constant=lambda word: _fail(path, f"a value is {word}, expected finite numbers"),
        )
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        _fail(path, f"content is not JSON ({error}), expected a JSON object")
    if not isinstance(value, dict):
        _fail(path, f"content is a {type(value).__name__}, expected a JSON object")
    if _is_deeper(value, MAX_DEPTH):
        _fail(path, f"nesting is more than {MAX_DEPTH} deep, expected at most that")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects nest deeper, on which Python's versions differ by themselves."""
    level: list[Any] = [value]
    for _ in range(depth):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [v for values in inner if isinstance(values, list) for v in values]
        if not level:
            return False
    return True


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            _fail(path, f"key {short_repr(key)} is given twice, expected each key once")
        found[key] = value
    return found


def _fail(path: Path, what: str) -> NoReturn:
    raise ModelFileError(f"{path}: {what}")


@dataclass(frozen=True)
class Fields:
    """The settings of one file, by name; a field that is null counts as absent.

    Every reader raises `ModelFileError` for a value of another kind, and for an absent field that
    has no default.
    """

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""
    group_name: str = ""  # of a nested object, for messages

    @classmethod
    def of_file(cls, path: Path) -> Fields:
        """Read the settings in a JSON file; where there is no file, there are none.

        Raises:
            ModelFileError: as `load_json`.
        """
        return cls(path, load_json(path) if path.exists() else {})

    def __contains__(self, name: str) -> bool:
        return self.values.get(self.prefix + name) is not None

    def fail(self, name: str, expected: str) -> NoReturn:
        found = self.values.get(self.prefix + name)
        what = "missing" if found is None else short_repr(found)
        _fail(self.path, f"{self.group_name}{self.prefix}{name} is {what}, expected {expected}")

    def with_constants(self, names: Iterable[str], layers: int) -> Fields:
        """Return the fields with one number where a list holds the same for each layer.

        Raises:
            ModelFileError: a list of as many entries that differ.
        """
        constants: dict[str, Any] = {}
        for name in names:
            found = self.values.get(self.prefix + name)
            entries = found.tolist() if isinstance(found, np.ndarray) else found
            if isinstance(entries, list) and len(entries) == layers:
                if any(entry != entries[0] for entry in entries):
                    self.fail(name, "a whole number, the same for all layers")
                constants[self.prefix + name] = entries[0]
        return replace(self, values={**self.values, **constants}) if constants else self

    def integer(
        self, name: str, default: Default = MISSING, low: int = 1, high: int = MAX_COUNT
    ) -> int | Default:
        """Return an integer in [low, high]."""
        value = self.values.get(self.prefix + name)
        if value is None and default is not MISSING:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"a whole number from {low} to {high}")
        return value

    def number(
        self, name: str, default: Default = MISSING, low: float = 0.0, high: float = 1e12
    ) -> float | Default:
        """Return a finite number in (low, high]."""
        value = self.values.get(self.prefix + name)
        if value is None and default is not MISSING:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or not is_number or not low < value <= high:  # NaN is in no range
            self.fail(name, f"a number above {low:g}, at most {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(self.prefix + name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def text(self, name: str, default: Default = MISSING) -> str | Default:
        value = self.values.get(self.prefix + name)
        if value is None and default is not MISSING:
            return default
        if not isinstance(value, str):
            self.fail(name, "a string")
        return value

    def group(self, name: str) -> Fields | None:
        """Return a nested object, or None where it is absent or empty."""
        value = self.values.get(self.prefix + name)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            self.fail(name, "an object")
        return Fields(self.path, value, group_name=f"{name}.")

    def token_ids(self, name: str, vocabulary: int, warns: bool = False) -> tuple[int, ...]:
        """Return the token ids of a field that holds one, a list of them, or nothing.

        Ids outside the vocabulary are passed over: no token can have them. Files hold -1 for none,
        and ids of tokens that another model of the family has.
        """
        value = self.values.get(self.prefix + name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            self.fail(name, "a token id or a list of token ids")
        inside = tuple(index for index in ids if 0 <= index < vocabulary)
        if warns and len(inside) < len(ids):
            outside = next(index for index in ids if not 0 <= index < vocabulary)
            logging.getLogger("cullama").warning(
                "%s: %s holds the id %s, and the vocabulary %d tokens: it is passed over",
                *(self.path, self.prefix + name, short_repr(outside), vocabulary),
            )
        return inside

    def token_id(self, name: str, vocabulary: int) -> int | None:
        """Return a token id, the first of several; None where there is none in the vocabulary."""
        return next(iter(self.token_ids(name, vocabulary)), None)
