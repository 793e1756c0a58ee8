"""The tests and global functions that a template may use, each paid for before it runs.

They do what jinja2's own do; `raise_exception` and `strftime_now` do what transformers' do.
`lipsum` is left out: nothing random may be part of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Undefined, pass_context
from jinja2.runtime import LoopContext, Macro
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner
from markupsafe import Markup

from .budget import Budget, refuse
from .context import ConversationRefusedError, RenderContext, TemplateFunction, with_budget
from .methods import Function, check_key
from .values import COMPARISONS, PlainNamespace, calculate

MAX_RANGE = 100_000  # jinja2's own
MAX_TIME_FORMAT = 300  # characters

# --- tests


def _divides(budget: Budget, value: Any, divisor: Any) -> bool:
    return bool(calculate(budget, "%", value, divisor) == 0)


def _is_filter(context: RenderContext, name: Any) -> bool:
    return check_key(name) in context.environment.filters and " " not in name


def _is_test(context: RenderContext, name: Any) -> bool:
    return check_key(name) in context.environment.tests


# --- functions


def raise_exception(budget: Budget, message: Any = "") -> NoReturn:
    raise ConversationRefusedError(budget.text_of(message))


_TIME_FORMAT = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")  # no widths, which strftime would pad to


def strftime_now(budget: Budget, form: str) -> str:
    budget.spend(len(form))
    if len(form) > MAX_TIME_FORMAT or not _TIME_FORMAT.fullmatch(form):
        refuse(f"writes the time as {form!r:.80}")
    return datetime.now().strftime(form)


def limited_range(budget: Budget, *bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_RANGE:
        refuse(f"makes a range of {len(found)}, expected at most {MAX_RANGE}")
    return found


def dict_of(budget: Budget, pairs: Any = (), /, **named: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in budget.each(pairs.items() if isinstance(pairs, dict) else pairs):
        made[check_key(key)] = value
    return made | named


def namespace(budget: Budget, pairs: Any = (), /, **named: Any) -> PlainNamespace:
    return PlainNamespace(dict_of(budget, pairs, **named))


def joiner(budget: Budget, sep: str = ", ") -> Joiner:
    return Joiner(sep)


def cycler(budget: Budget, *items: Any) -> Cycler:
    return Cycler(*items)


# --- the tables

CALLABLE = (Function, Macro, LoopContext, Joiner, Undefined)  # what jinja2 takes for callable

_COMPARISON_NAMES = {
    "eq": ("eq", "equalto", "=="),
    "ne": ("ne", "!="),
    "lt": ("lt", "lessthan", "<"),
    "lteq": ("le", "<="),
    "gt": ("gt", "greaterthan", ">"),
    "gteq": ("ge", ">="),
    "in": ("in",),
}


_TYPE_TESTS = (
    "defined undefined none boolean true false integer float number string mapping sequence "
    "iterable sameas"
)
SAFE_TESTS: Mapping[str, TemplateFunction] = {
    **{name: cast(TemplateFunction, TESTS[name]) for name in _TYPE_TESTS.split()},
    **{
        name: with_budget(COMPARISONS[kind])
        for kind, names in _COMPARISON_NAMES.items()
        for name in names
    },
    "callable": lambda value: isinstance(value, CALLABLE),
    "divisibleby": with_budget(_divides),
    "escaped": lambda value: isinstance(value, Markup),
    "even": with_budget(lambda budget, value: _divides(budget, value, 2)),
    "odd": with_budget(lambda budget, value: not _divides(budget, value, 2)),
    "filter": pass_context(_is_filter),
    "lower": with_budget(lambda budget, value: budget.text_of(value).islower()),
    "test": pass_context(_is_test),
    "upper": with_budget(lambda budget, value: budget.text_of(value).isupper()),
}

FUNCTIONS: Mapping[str, Function] = {
    "raise_exception": Function(raise_exception),
    "strftime_now": Function(strftime_now),
    "cycler": Function(cycler),
    "joiner": Function(joiner),
    "range": Function(limited_range),
    "dict": Function(dict_of),
    "namespace": Function(namespace),
}
