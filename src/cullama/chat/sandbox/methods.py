"""The methods of strings, lists and dicts that a template may call, each paid for before it runs.

A template cannot reach any other: `METHODS` lists them all. Text that is marked as safe escapes
what is put into it, as in jinja2. Lists can grow and shrink, as in llama.cpp: they are the
template's own, or copies.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jinja2.runtime import LoopContext
from jinja2.utils import Cycler
from markupsafe import Markup

from ..escape import restore_split
from .budget import REPR_GROWTH, Budget, Lists, Scalars, describe, lack, refuse

Method: TypeAlias = Callable[..., Any]  # budget, the value itself, arguments


@dataclass(frozen=True)
class Function:
    """A function that a template may call."""

    run: Callable[..., Any]  # budget, arguments


class Group(NamedTuple):
    """A group of the filter `groupby`: a tuple that is printed as one."""

    grouper: Any
    list: list[Any]

    def __repr__(self) -> str:
        return tuple.__repr__(self)


def check_key(key: Any) -> Any:
    """Return `key` if it may be a dict's key.

    A tuple may not: nested ones can take forever to hash. Lists and dicts pass, and raise Python's
    own TypeError.
    """
    if not isinstance(key, (*Scalars, list, dict)):
        refuse(f"looks up {describe(key)}, expected a text or a number")
    return key


# --- strings

_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_CASE_GROWTH = 3  # characters for one at most: "ΐ".upper()
MARKUP_GROWTH = 5  # characters for one at most: a quote becomes &#34;


def escaped(budget: Budget, value: Any) -> Markup:
    """Return a value as markup: marked text as it is, other text with its signs escaped."""
    text = budget.text_of(value)
    budget.spend_text(MARKUP_GROWTH * len(text))
    return Markup.escape(text)


def _plain(name: str) -> Method:
    def plain(budget: Budget, text: str, *values: Any) -> Any:
        budget.spend_on(values)
        budget.spend_search(text, *values)
        budget.spend_text(_CASE_GROWTH * len(text))
        return getattr(text, name)(*values)

    return plain


def _affix_test(name: str) -> Method:
    method = getattr(str, name)

    def affix_test(budget: Budget, text: str, *values: Any) -> Any:
        budget.spend_on(values)
        return method(text, *values)

    return affix_test


def _padded(name: str) -> Method:
    def padded(budget: Budget, text: str, width: int, *fill: Any) -> Any:
        budget.spend_text(max(len(text), width))
        budget.spend_on(fill)
        return getattr(text, name)(width, *fill)

    return padded


def _split(name: str) -> Method:
    def split(budget: Budget, text: str, sep: str | None = None, maxsplit: int = -1) -> Any:
        budget.spend_search(text, sep)
        affordable = budget.left if maxsplit < 0 else min(maxsplit, budget.left)
        parts = getattr(text, name)(sep, affordable)
        budget.spend(len(parts))
        return parts

    return split


def _split_lines(budget: Budget, text: str, keepends: bool = False) -> list[str]:
    budget.spend_text(len(text))
    budget.spend(sum(map(text.count, _LINE_BREAKS)))
    return text.splitlines(keepends)


def join(budget: Budget, text: str, values: Any) -> str:
    parts = budget.listed(values)
    if isinstance(text, Markup):
        parts = [escaped(budget, part) for part in parts]
    budget.spend_text(sum(len(part) for part in parts) + len(text) * len(parts))
    return text.join(parts)


def replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    budget.spend_search(text, old)
    new = escaped(budget, new) if isinstance(text, Markup) else new
    times = text.count(old)
    budget.spend_text(len(text) + len(new) * (times if count < 0 else min(times, count)))
    return text.replace(old, new, count)


class _Format(string.Formatter):
    """`str.format` without access to attributes or items of the values."""

    _SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,2}[,_]?(?:\.\d{1,2})?[bcdeEfFgGosxX%]?")

    def __init__(self, budget: Budget, text: str) -> None:
        self.budget, self.escapes = budget, isinstance(text, Markup)

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, str]:
        key = int(field_name) if field_name.isdecimal() else field_name
        if isinstance(key, str) and re.search(r"[.\[]", key):
            lack(f"{field_name!r:.80} in a text's format()")
        return self.get_value(key, args, kwargs), field_name

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion in ("r", "a"):
            self.budget.spend_on(value, growth=REPR_GROWTH)
            return restore_split(super().convert_field(value, conversion))
        return value if conversion is None else self.budget.text_of(value)

    def format_field(self, value: Any, format_spec: str) -> str:
        if not format_spec:
            return str(self._escaped(self.budget.text_of(value)))
        if not self._SPEC.fullmatch(format_spec) or not isinstance(value, Scalars):
            refuse(f"formats {describe(value)} with {format_spec!r:.80}")
        self.budget.spend(len(self.budget.text_of(value)))
        if self.escapes and isinstance(value, Markup):
            return value.__html_format__(format_spec)  # raises ValueError, as markup has none
        return str(self._escaped(format(value, format_spec)))

    def _escaped(self, text: str) -> str:
        return escaped(self.budget, text) if self.escapes else text


def _format(budget: Budget, text: str, /, *values: Any, **named: Any) -> str:
    budget.spend(len(text))
    return type(text)(_Format(budget, text).vformat(text, values, named))


_TEXT_METHODS: dict[str, Method] = {
    name: kind(name)
    for kind, names in (
        (_plain, "upper lower title capitalize swapcase casefold strip lstrip rstrip"),
        (_plain, "removeprefix removesuffix partition rpartition"),
        (_plain, "find rfind index rindex count"),
        (_plain, "isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric"),
        (_plain, "isprintable isspace istitle isupper"),
        (_affix_test, "startswith endswith"),
        (_padded, "center ljust rjust zfill"),
        (_split, "split rsplit"),
    )
    for name in names.split()
} | {"splitlines": _split_lines, "join": join, "replace": replace, "format": _format}


# --- lists, dicts, loops


def _list_search(name: str) -> Method:
    """Make the method `index` or `count`."""

    def search(budget: Budget, values: Any, value: Any, *bounds: int) -> int:
        budget.spend_on([values, value])
        found: int = getattr(values, name)(value, *bounds)
        return found

    return search


def _append(budget: Budget, values: list[Any], value: Any) -> None:
    budget.spend(1)
    values.append(value)


def _pop(budget: Budget, values: list[Any], *index: int) -> Any:
    budget.spend_list(len(values))
    return values.pop(*index)


def _copy(budget: Budget, values: Any) -> Any:
    budget.spend_list(2 * len(values))
    return values.copy()


def _changed(budget: Budget, loop: LoopContext, *values: Any) -> bool:
    budget.spend_on(values)
    return loop.changed(*values)


METHODS: dict[type, dict[str, Method]] = {
    str: _TEXT_METHODS,
    Markup: _TEXT_METHODS | {name: _plain(name) for name in ("striptags", "unescape")},
    **{kind: {name: _list_search(name) for name in ("index", "count")} for kind in (*Lists, Group)},
    dict: {
        "get": lambda budget, values, key, default=None: values.get(check_key(key), default),
        "items": lambda budget, values: values.items(),
        "keys": lambda budget, values: values.keys(),
        "values": lambda budget, values: values.values(),
        "copy": _copy,
    },
    LoopContext: {
        "cycle": lambda budget, loop, *values: loop.cycle(*values),
        "changed": _changed,
    },
    Cycler: {
        "next": lambda budget, cycler: cycler.next(),
        "reset": lambda budget, cycler: cycler.reset(),
    },
}
METHODS[list] |= {"append": _append, "copy": _copy, "pop": _pop}
