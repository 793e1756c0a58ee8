"""The filters that a template may use, each paid for before it runs.

They give the results of jinja2's own filters, whose functions are named alike (`do_title` …), and
`tojson` that of transformers. Text that is marked as safe is plain text here, since nothing is
escaped automatically.
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
from .context import RenderContext, TemplateFunction, with_budget
from .methods import check_key, join, replace
from .values import calculate, percent_format

MAX_NUMBER = 300  # characters that are parsed as a number
MAX_INDENT = 16  # characters of an indentation in JSON, and of its separators
JSON_GROWTH = 12  # characters for one: an emoji becomes \ud83e\udd99


# --- strings


def _cased(name: str) -> TemplateFunction:
    method: Callable[[str], str] = getattr(str, name)
    return with_budget(lambda budget, value: method(budget.text_of(value)))


def do_title(budget: Budget, value: Any) -> str:
    text = budget.text_of(value)
    budget.spend(len(text))  # jinja2 splits the text into words
    return FILTERS["title"](text)


def do_trim(budget: Budget, value: Any, chars: str | None = None) -> str:
    text = budget.text_of(value)
    budget.spend_search(text, chars)
    return text.strip(chars)


def do_replace(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, before, after = (budget.text_of(it) for it in (value, old, new))
    return replace(budget, text, before, after, -1 if count is None else count)


def do_indent(
    budget: Budget, text: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    text = budget.text_of(text)
    wide = len(width) if isinstance(width, str) else max(width, 0)
    budget.spend_text(len(text))
    lines = len(text.splitlines()) if len(text) <= budget.left else budget.left
    budget.spend((lines + 1) * (1 + wide // 8))
    return FILTERS["indent"](text, width, bool(first), bool(blank))


def do_center(budget: Budget, value: Any, width: int = 80) -> str:
    text = budget.text_of(value)
    budget.spend_text(max(len(text), width))
    return text.center(width)


def do_escape(budget: Budget, value: Any) -> str:
    text = budget.text_of(value)
    budget.spend_text(6 * len(text))
    return escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def do_format(budget: Budget, text: str, *values: Any, **named: Any) -> str:
    if values and named:
        refuse("formats a text with values and named values at once")
    return percent_format(budget, budget.text_of(text), named or values)


def do_to_json(
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
    if not wide <= MAX_INDENT or between > MAX_INDENT:
        refuse(f"indents or separates JSON by more than {MAX_INDENT} characters")
    budget.spend_on(value, growth=JSON_GROWTH if ensure_ascii else 2, indent=wide + between)
    return json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )


# --- numbers


def _number(kind: str) -> TemplateFunction:
    def number(budget: Budget, value: Any, *options: Any, **named: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_NUMBER:
            refuse(f"reads a number of {len(value)} characters, expected {MAX_NUMBER}")
        return FILTERS[kind](value, *options, **named)

    return with_budget(number)


def do_round(budget: Budget, value: Any, precision: int = 0, method: str = "common") -> Any:
    if not -MAX_NUMBER <= precision <= MAX_NUMBER:
        refuse(f"rounds to {precision:.3g} digits")
    return FILTERS["round"](value, precision, check_key(method))


def do_sum(context: RenderContext, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    return reduce(
        lambda total, value: calculate(context.budget, "+", total, value),
        _read_each(context, values, attribute),
        start,
    )


# --- lists


def _read(context: RenderContext, value: Any, attribute: Any, default: Any = None) -> Any:
    """Return `value.a.b` for the attribute "a.b", `default` if it is undefined.

    A number in the attribute is an index.
    """
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


def do_length(budget: Budget, value: Any) -> int:
    if not isinstance(value, Counted):
        refuse(f"counts {describe(value)}, expected a text or a list")
    return len(value)


def do_first(context: RenderContext, values: Any) -> Any:
    for value in context.budget.each(values):
        return value
    return context.environment.undefined("No first item, sequence was empty.")


def do_last(context: RenderContext, values: Any) -> Any:
    if not isinstance(values, Counted):
        refuse(f"takes the last of {describe(values)}, expected a list")
    for value in reversed(values if not isinstance(values, Undefined) else ()):
        return value
    return context.environment.undefined("No last item, sequence was empty.")


def do_reverse(budget: Budget, values: Any) -> Any:
    if isinstance(values, str):
        return budget.text_of(values)[::-1]
    return (value for value in reversed(budget.listed(values)))


def do_items(budget: Budget, value: Any) -> Iterator[Any]:
    if not isinstance(value, (dict, Undefined)):
        refuse(f"takes the items of {describe(value)}, expected a dict")
    yield from budget.each({} if isinstance(value, Undefined) else value.items())


def do_map(context: RenderContext, values: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    if not arguments and "attribute" in named:
        yield from _read_each(context, values, **named)
        return
    if not arguments:
        refuse("maps without a filter's name")
    name, rest = check_key(arguments[0]), arguments[1:]
    for value in context.budget.each(values):
        yield context.environment.call_filter(name, value, rest, named, context=context)


def _selection(keeps: bool, by_attribute: bool) -> TemplateFunction:
    """Make one of the filters select, reject, selectattr and rejectattr."""

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


def do_sort(
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


def do_dictsort(
    budget: Budget,
    value: dict[Any, Any],
    case_sensitive: bool = False,
    by: str = "key",
    reverse: bool = False,
) -> list[Any]:
    _pay_for_sorting(budget, value)
    key, place = _sort_key(budget, case_sensitive), {"key": 0, "value": 1}[check_key(by)]
    return sorted(value.items(), key=lambda item: key(item[place]), reverse=bool(reverse))


def _extreme(pick: Callable[..., Any]) -> TemplateFunction:
    def extreme(
        context: RenderContext, values: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Any:
        listed = context.budget.listed(values)
        if not listed:
            return context.environment.undefined("No aggregated item, sequence was empty.")
        key = _sort_key(context.budget, case_sensitive)
        return pick(listed, key=lambda value: key(_read(context, value, attribute)))

    return pass_context(extreme)


def do_unique(
    context: RenderContext, values: Any, case_sensitive: bool = False, attribute: Any = None
) -> Iterator[Any]:
    seen = set()
    for value in context.budget.each(values):
        key = check_key(_read(context, value, attribute))
        key = key if case_sensitive else ignore_case(key)
        if key not in seen:
            seen.add(key)
            yield value


def do_join(context: RenderContext, values: Any, between: Any = "", attribute: Any = None) -> str:
    budget = context.budget
    texts = [budget.text_of(value) for value in _read_each(context, values, attribute)]
    return join(budget, budget.text_of(between), texts)


# --- the table

SAFE_FILTERS: Mapping[str, TemplateFunction] = {
    **{name: _cased(name) for name in ("upper", "lower", "capitalize")},
    **dict.fromkeys(("string", "safe"), with_budget(Budget.text_of)),
    **dict.fromkeys(("escape", "e"), with_budget(do_escape)),
    **dict.fromkeys(("length", "count"), with_budget(do_length)),
    **dict.fromkeys(("default", "d"), FILTERS["default"]),
    **{kind: _number(kind) for kind in ("int", "float")},
    "abs": abs,
    "center": with_budget(do_center),
    "dictsort": with_budget(do_dictsort),
    "first": pass_context(do_first),
    "format": with_budget(do_format),
    "indent": with_budget(do_indent),
    "items": with_budget(do_items),
    "join": pass_context(do_join),
    "last": pass_context(do_last),
    "list": with_budget(Budget.listed),
    "map": pass_context(do_map),
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _selection(keeps=False, by_attribute=False),
    "rejectattr": _selection(keeps=False, by_attribute=True),
    "replace": with_budget(do_replace),
    "reverse": with_budget(do_reverse),
    "round": with_budget(do_round),
    "select": _selection(keeps=True, by_attribute=False),
    "selectattr": _selection(keeps=True, by_attribute=True),
    "sort": pass_context(do_sort),
    "sum": pass_context(do_sum),
    "title": with_budget(do_title),
    "tojson": with_budget(do_to_json),
    "trim": with_budget(do_trim),
    "unique": pass_context(do_unique),
}
