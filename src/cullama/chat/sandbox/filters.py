"""The filters that a template may name, each paid for before it runs.

They do what jinja2's own do, and `tojson` what transformers' does. Text that is marked as safe is
plain text here, since nothing is escaped unless it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from html import escape
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS, ignore_case

from .budget import Budget, Counted, describe, refuse
from .methods import check_key, join, replace
from .run import RenderContext, Word, paid
from .values import calculate, percent_format

LONGEST_NUMBER = 300  # characters that are read as a number
WIDEST = 16  # of an indentation in JSON, and of what stands between its values
JSON_GROWTH = 12  # an emoji written as \ud83e\udd99


# --- of texts


def _cased(name: str) -> Word:
    method: Callable[[str], str] = getattr(str, name)
    return paid(lambda budget, value: method(budget.text_of(value)))


def _title(budget: Budget, value: Any) -> str:
    text = budget.text_of(value)
    budget.spend(len(text))  # each word stands alone for a while
    return FILTERS["title"](text)


def _trim(budget: Budget, value: Any, chars: str | None = None) -> str:
    text = budget.text_of(value)
    budget.spend_search(text, chars)
    return text.strip(chars)


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, before, after = (budget.text_of(it) for it in (value, old, new))
    return replace(budget, text, before, after, -1 if count is None else count)


def _indent(
    budget: Budget, text: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    text = budget.text_of(text)
    wide = len(width) if isinstance(width, str) else max(width, 0)
    budget.spend_text(len(text))
    lines = len(text.splitlines()) if len(text) <= budget.left else budget.left
    budget.spend((lines + 1) * (1 + wide // 8))
    return FILTERS["indent"](text, width, bool(first), bool(blank))


def _center(budget: Budget, value: Any, width: int = 80) -> str:
    text = budget.text_of(value)
    budget.spend_text(max(len(text), width))
    return text.center(width)


def _escape(budget: Budget, value: Any) -> str:
    text = budget.text_of(value)
    budget.spend_text(6 * len(text))
    return escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _format(budget: Budget, text: str, *values: Any, **named: Any) -> str:
    if values and named:
        refuse("formats a text with values and named values at once")
    return percent_format(budget, budget.text_of(text), named or values)


def _to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    wide = len(indent) if isinstance(indent, str) else indent or 0
    budget.spend_on(separators)
    between = sum(len(it) for it in separators or ())
    if not wide <= WIDEST or between > WIDEST:
        refuse(f"indents or separates JSON by more than {WIDEST} characters")
    budget.spend_on(value, growth=JSON_GROWTH if ensure_ascii else 2, indent=wide + between)
    return json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )


# --- of numbers


def _number(kind: str) -> Word:
    def number(budget: Budget, value: Any, *options: Any, **named: Any) -> Any:
        if isinstance(value, str) and len(value) > LONGEST_NUMBER:
            refuse(f"reads a number of {len(value)} characters, expected {LONGEST_NUMBER}")
        return FILTERS[kind](value, *options, **named)

    return paid(number)


def _round(budget: Budget, value: Any, precision: int = 0, method: str = "common") -> Any:
    if not -LONGEST_NUMBER <= precision <= LONGEST_NUMBER:
        refuse(f"rounds to {precision:.3g} digits")
    return FILTERS["round"](value, precision, check_key(method))


def _sum(context: RenderContext, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    return reduce(
        lambda total, value: calculate(context.budget, "+", total, value),
        _read_each(context, values, attribute),
        start,
    )


# --- of lists


def _read(context: RenderContext, value: Any, attribute: Any, default: Any = None) -> Any:
    """`value.a.b` for the attribute "a.b"; a number is an index, and `default` stands in."""
    if attribute is None:
        return value
    names = context.budget.text_of(attribute).split(".")
    context.budget.spend(len(names))
    for name in names:
        key: Any = int(name) if name.isascii() and name.isdigit() else name
        value = context.environment.getitem(value, key)
        if default is not None and isinstance(value, Undefined):
            value = default
    return value


def _read_each(
    context: RenderContext, values: Any, attribute: Any, default: Any = None
) -> Iterator[Any]:
    for value in context.budget.each(values):
        yield _read(context, value, attribute, default)


def _length(budget: Budget, value: Any) -> int:
    if not isinstance(value, Counted):
        refuse(f"counts {describe(value)}, expected a text or a list")
    return len(value)


def _first(context: RenderContext, values: Any) -> Any:
    for value in context.budget.each(values):
        return value
    return context.environment.undefined("No first item, sequence was empty.")


def _last(context: RenderContext, values: Any) -> Any:
    if not isinstance(values, Counted):
        refuse(f"takes the last of {describe(values)}, expected a list")
    for value in reversed(values if not isinstance(values, Undefined) else ()):
        return value
    return context.environment.undefined("No last item, sequence was empty.")


def _reverse(budget: Budget, values: Any) -> Any:
    if isinstance(values, str):
        return budget.text_of(values)[::-1]
    return (value for value in reversed(budget.listed(values)))


def _items(budget: Budget, value: Any) -> Iterator[Any]:
    if not isinstance(value, (dict, Undefined)):
        refuse(f"takes the items of {describe(value)}, expected a dict")
    yield from budget.each({} if isinstance(value, Undefined) else value.items())


def _map(context: RenderContext, values: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    if not arguments and "attribute" in named:
        yield from _read_each(context, values, **named)
        return
    if not arguments:
        refuse("maps by no filter at all")
    name, rest = check_key(arguments[0]), arguments[1:]
    for value in context.budget.each(values):
        yield context.environment.call_filter(name, value, rest, named, context=context)


def _selection(keeps: bool, by_attribute: bool) -> Word:
    """select, reject, selectattr and rejectattr."""

    def selection(
        context: RenderContext, values: Any, *arguments: Any, **named: Any
    ) -> Iterator[Any]:
        attribute = arguments[0] if by_attribute else None
        test = arguments[int(by_attribute) :]
        check_key(test[0] if test else None)
        for value in context.budget.each(values):
            found = _read(context, value, attribute)
            if test:
                found = context.environment.call_test(test[0], found, test[1:], named, context)
            if bool(found) is keeps:
                yield value

    return pass_context(selection)


def _sort_key(budget: Budget, case_sensitive: bool) -> Callable[[Any], Any]:
    def key(value: Any) -> Any:
        budget.spend_on(value)
        return value if case_sensitive else ignore_case(value)

    return key


def _pay_for_sorting(budget: Budget, values: Any) -> None:
    budget.spend_on(values)
    for _ in range(len(values).bit_length()):
        budget.spend_on(values)


def _sort(
    context: RenderContext,
    values: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: Any = None,
) -> list[Any]:
    listed = context.budget.listed(values)
    _pay_for_sorting(context.budget, listed)
    key = _sort_key(context.budget, case_sensitive)
    return sorted(
        listed, key=lambda value: key(_read(context, value, attribute)), reverse=bool(reverse)
    )


def _dictsort(
    budget: Budget,
    value: dict[Any, Any],
    case_sensitive: bool = False,
    by: str = "key",
    reverse: bool = False,
) -> list[Any]:
    _pay_for_sorting(budget, value)
    key, place = _sort_key(budget, case_sensitive), {"key": 0, "value": 1}[check_key(by)]
    return sorted(value.items(), key=lambda item: key(item[place]), reverse=bool(reverse))


def _extreme(pick: Callable[..., Any]) -> Word:
    def extreme(
        context: RenderContext, values: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Any:
        listed = context.budget.listed(values)
        if not listed:
            return context.environment.undefined("No aggregated item, sequence was empty.")
        key = _sort_key(context.budget, case_sensitive)
        return pick(listed, key=lambda value: key(_read(context, value, attribute)))

    return pass_context(extreme)


def _unique(
    context: RenderContext, values: Any, case_sensitive: bool = False, attribute: Any = None
) -> Iterator[Any]:
    seen = set()
    for value in context.budget.each(values):
        key = check_key(_read(context, value, attribute))
        key = key if case_sensitive else ignore_case(key)
        if key not in seen:
            seen.add(key)
            yield value


def _join(context: RenderContext, values: Any, between: Any = "", attribute: Any = None) -> str:
    budget = context.budget
    texts = [budget.text_of(value) for value in _read_each(context, values, attribute)]
    return join(budget, budget.text_of(between), texts)


# --- what there is

SAFE_FILTERS: Mapping[str, Word] = {
    **{name: _cased(name) for name in ("upper", "lower", "capitalize")},
    **dict.fromkeys(("string", "safe"), paid(Budget.text_of)),
    **dict.fromkeys(("escape", "e"), paid(_escape)),
    **dict.fromkeys(("length", "count"), paid(_length)),
    **dict.fromkeys(("default", "d"), FILTERS["default"]),
    **{kind: _number(kind) for kind in ("int", "float")},
    "abs": abs,
    "center": paid(_center),
    "dictsort": paid(_dictsort),
    "first": pass_context(_first),
    "format": paid(_format),
    "indent": paid(_indent),
    "items": paid(_items),
    "join": pass_context(_join),
    "last": pass_context(_last),
    "list": paid(Budget.listed),
    "map": pass_context(_map),
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _selection(keeps=False, by_attribute=False),
    "rejectattr": _selection(keeps=False, by_attribute=True),
    "replace": paid(_replace),
    "reverse": paid(_reverse),
    "round": paid(_round),
    "select": _selection(keeps=True, by_attribute=False),
    "selectattr": _selection(keeps=True, by_attribute=True),
    "sort": pass_context(_sort),
    "sum": pass_context(_sum),
    "title": paid(_title),
    "tojson": paid(_to_json),
    "trim": paid(_trim),
    "unique": pass_context(_unique),
}
