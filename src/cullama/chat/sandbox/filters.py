"""The table of the filters that a template may use, and those of numbers and attributes.

The filters of texts and lists are in the files beside it. Each gives the result of jinja2's own
filter of that name, and is paid for before it runs. Left out are `random`, which would make a
prompt differ each time, and `urlize` and `xmlattr`, which are for web pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import pass_context
from jinja2.filters import FILTERS

from .budget import Budget, refuse
from .context import RenderContext, TemplateFunction, with_budget
from .list_filters import LIST_FILTERS
from .methods import check_key
from .text_filters import TEXT_FILTERS
from .values import MISSING, attribute_of

MAX_NUMBER = 300  # characters that are parsed as a number


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


def do_attr(context: RenderContext, value: Any, name: Any) -> Any:
    """Return an attribute, never an item; it reaches what `value.name` reaches."""
    if not isinstance(name, str):
        refuse("looks for an attribute whose name is no text")
    found = attribute_of(value, name)
    return context.environment.undefined(obj=value, name=name) if found is MISSING else found


SAFE_FILTERS: Mapping[str, TemplateFunction] = {
    **TEXT_FILTERS,
    **LIST_FILTERS,
    **dict.fromkeys(("default", "d"), FILTERS["default"]),
    **{kind: _number(kind) for kind in ("int", "float", "filesizeformat")},
    "abs": abs,
    "attr": pass_context(do_attr),
    "round": with_budget(do_round),
}
