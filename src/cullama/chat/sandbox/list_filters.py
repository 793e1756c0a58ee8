"""The filters that take a list: selecting, sorting, grouping, joining, adding up.

Each part that is looked at is paid for. Filters that find nothing in jinja2's are given nothing
here: `select`, `reject`, `selectattr`, `rejectattr` and `map` of none are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import groupby
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS, ignore_case

from .budget import Budget, Counted, describe, lack, refuse
from .context import RenderContext, TemplateFunction, with_budget
from .methods import Group, check_key, join
from .values import calculate


def _parts_of(context: RenderContext, attribute: Any) -> list[Any]:
    """Return the keys of the attribute "a.0.b": "a", 0 and "b"."""
    if attribute is None:
        return []
    if not isinstance(attribute, str):
        return [attribute]
    names = context.budget.text_of(attribute).split(".")
    context.budget.spend(len(names))
    return [int(name) if name.isascii() and name.isdigit() else name for name in names]


def _read(context: RenderContext, value: Any, attribute: Any, default: Any = None) -> Any:
    """Return `value.a.b` for the attribute "a.b", `default` where it is undefined."""
    for key in _parts_of(context, attribute):
        value = context.environment.getitem(value, key)
        if default is not None and isinstance(value, Undefined):
            value = default
    return value


def _read_each(
    context: RenderContext, values: Any, attribute: Any, default: Any = None
) -> Iterator[Any]:
    for value in context.budget.each(values):
        yield _read(context, value, attribute, default)


# --- parts of a list


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


def do_batch(
    budget: Budget, values: Any, linecount: int, fill_with: Any = None
) -> Iterator[list[Any]]:
    listed = budget.listed(values)
    if listed and fill_with is not None:
        budget.spend_list(linecount)
    yield from FILTERS["batch"](listed, linecount, fill_with)


def do_slice(
    budget: Budget, values: Any, slices: int, fill_with: Any = None
) -> Iterator[list[Any]]:
    for part in FILTERS["slice"](budget.listed(values), slices, fill_with):
        budget.spend(1)
        yield part


# --- selections


def do_map(context: RenderContext, values: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    if not values:
        return
    if not arguments and "attribute" in named:
        yield from _read_each(context, values, **named)
        return
    if not arguments:
        refuse("maps without a filter's name")
    name, rest = check_key(arguments[0]), arguments[1:]
    if name not in context.environment.filters:
        lack(f"the filter {name!r:.80}")
    for value in context.budget.each(values):
        yield context.environment.call_filter(name, value, rest, named, context=context)


def _selection(keeps: bool, by_attribute: bool) -> TemplateFunction:
    """Make one of the filters select, reject, selectattr and rejectattr."""

    def selection(
        context: RenderContext, values: Any, *arguments: Any, **named: Any
    ) -> Iterator[Any]:
        if not values:
            return
        attribute = arguments[0] if by_attribute else None
        test = arguments[int(by_attribute) :]
        if test and check_key(test[0]) not in context.environment.tests:
            lack(f"the test {test[0]!r:.80}")
        for value in context.budget.each(values):
            found = _read(context, value, attribute)
            if test:
                found = context.environment.call_test(test[0], found, test[1:], named, context)
            if bool(found) is keeps:
                yield value

    return pass_context(selection)


# --- order


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
    several = isinstance(attribute, str)  # "a,b" sorts by both
    names = context.budget.text_of(attribute).split(",") if several else [attribute]
    return sorted(
        listed,
        key=lambda value: [key(_read(context, value, name)) for name in names],
        reverse=reverse,
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
    return sorted(value.items(), key=lambda item: key(item[place]), reverse=reverse)


def do_groupby(
    context: RenderContext,
    values: Any,
    attribute: Any,
    default: Any = None,
    case_sensitive: bool = False,
) -> list[Group]:
    listed = context.budget.listed(values)
    _pay_for_sorting(context.budget, listed)
    key = _sort_key(context.budget, case_sensitive)

    def key_of(value: Any) -> Any:
        return key(_read(context, value, attribute, default))

    groups = [list(group) for _, group in groupby(sorted(listed, key=key_of), key_of)]
    return [Group(_read(context, group[0], attribute, default), group) for group in groups]


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
        key = _read(context, value, attribute)
        context.budget.spend_on(key)
        key = key if case_sensitive else ignore_case(key)
        if key not in seen:
            seen.add(key)
            yield value


# --- of all parts


def do_join(context: RenderContext, values: Any, between: Any = "", attribute: Any = None) -> str:
    budget = context.budget
    texts = [budget.text_of(value) for value in _read_each(context, values, attribute)]
    return join(budget, str(budget.text_of(between)), texts)


def do_sum(context: RenderContext, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    if isinstance(start, str):
        refuse("adds up texts, expected numbers; join does that")
    return reduce(
        lambda total, value: calculate(context.budget, "+", total, value),
        _read_each(context, values, attribute),
        start,
    )


LIST_FILTERS: Mapping[str, TemplateFunction] = {
    **dict.fromkeys(("length", "count"), with_budget(do_length)),
    "batch": with_budget(do_batch),
    "dictsort": with_budget(do_dictsort),
    "first": pass_context(do_first),
    "groupby": pass_context(do_groupby),
    "items": with_budget(do_items),
    "join": pass_context(do_join),
    "last": pass_context(do_last),
    "list": with_budget(Budget.listed),
    "map": pass_context(do_map),
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _selection(keeps=False, by_attribute=False),
    "rejectattr": _selection(keeps=False, by_attribute=True),
    "reverse": with_budget(do_reverse),
    "select": _selection(keeps=True, by_attribute=False),
    "selectattr": _selection(keeps=True, by_attribute=True),
    "slice": with_budget(do_slice),
    "sort": pass_context(do_sort),
    "sum": pass_context(do_sum),
    "unique": pass_context(do_unique),
}
