"""The tests and functions that a template may name, each paid for before it runs.

They do what jinja2's own do, and `raise_exception` and `strftime_now` what transformers' do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2.runtime import Macro
from jinja2.tests import TESTS

from .budget import Budget, refuse
from .methods import Callee, check_key
from .run import ConversationRefusedError, Word, paid
from .values import COMPARISONS, PlainNamespace, calculate

LARGEST_RANGE = 100_000  # jinja2's own
LONGEST_TIME = 300  # characters of a form that strftime fills in

# --- tests


def _divides(budget: Budget, value: Any, divisor: Any) -> bool:
    if isinstance(value, str):
        refuse("divides a text")
    return bool(calculate(budget, "%", value, divisor) == 0)


# --- functions


def _raise(budget: Budget, message: Any = "") -> NoReturn:
    raise ConversationRefusedError(budget.text_of(message))


_TIME = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")  # no widths: strftime would fill them


def _time_now(budget: Budget, form: str) -> str:
    budget.spend(len(form))
    if len(form) > LONGEST_TIME or not _TIME.fullmatch(form):
        refuse(f"writes the time as {form!r:.80}")
    return datetime.now().strftime(form)


def _range(budget: Budget, *bounds: int) -> range:
    found = range(*bounds)
    if len(found) > LARGEST_RANGE:
        refuse(f"makes a range of {len(found)}, expected at most {LARGEST_RANGE}")
    return found


def dict_of(budget: Budget, pairs: Any = (), /, **named: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in budget.each(pairs.items() if isinstance(pairs, dict) else pairs):
        made[check_key(key)] = value
    return made | named


def _namespace(budget: Budget, pairs: Any = (), /, **named: Any) -> PlainNamespace:
    return PlainNamespace(dict_of(budget, pairs, **named))


# --- what there is

_COMPARING = {
    "eq": ("eq", "equalto", "=="),
    "ne": ("ne", "!="),
    "lt": ("lt", "lessthan", "<"),
    "lteq": ("le", "<="),
    "gt": ("gt", "greaterthan", ">"),
    "gteq": ("ge", ">="),
    "in": ("in",),
}


_KINDS = (
    "defined undefined none boolean true false integer float number string mapping sequence "
    "iterable sameas"
)
SAFE_TESTS: Mapping[str, Word] = {
    **{name: cast(Word, TESTS[name]) for name in _KINDS.split()},
    **{name: paid(COMPARISONS[kind]) for kind, names in _COMPARING.items() for name in names},
    "callable": lambda value: isinstance(value, (Callee, Macro)),
    "divisibleby": paid(_divides),
    "even": paid(lambda budget, value: _divides(budget, value, 2)),
    "odd": paid(lambda budget, value: not _divides(budget, value, 2)),
    "lower": paid(lambda budget, value: budget.text_of(value).islower()),
    "upper": paid(lambda budget, value: budget.text_of(value).isupper()),
}

FUNCTIONS: Mapping[str, Callee] = {
    "raise_exception": Callee(_raise),
    "strftime_now": Callee(_time_now),
    "range": Callee(_range),
    "dict": Callee(dict_of),
    "namespace": Callee(_namespace),
}
