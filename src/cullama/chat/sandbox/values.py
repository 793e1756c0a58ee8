"""What a template may do to values: attributes, items, slices, arithmetic and comparisons.

Each operation pays the budget first. Filters and the template language are in the files beside it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from jinja2 import Undefined
from jinja2.runtime import LoopContext
from jinja2.utils import Cycler, Namespace
from markupsafe import Markup

from ..escape import restore_split
from .budget import REPR_GROWTH, Budget, Lists, Scalars, describe, lack, refuse
from .methods import MARKUP_GROWTH, METHODS, Function, Group, check_key

Operation: TypeAlias = Callable[[Budget, Any, Any], Any]

MISSING: Any = object()
MAX_BITS = 1024  # of an integer that is calculated

_LOOP = "index index0 first last length revindex revindex0 previtem nextitem depth depth0"
VARIABLES: dict[type, frozenset[str]] = {  # attributes that are values, not methods
    LoopContext: frozenset(_LOOP.split()),
    Cycler: frozenset({"current"}),
    Group: frozenset(Group._fields),
}


# --- attributes, items, slices


class PlainNamespace(Namespace):
    """jinja2's namespace, without names that start with an underscore."""

    def __init__(*arguments: Any, **names: Any) -> None:  # `self` may be one of the names
        self, values = arguments[0], arguments[1:]
        Namespace.__init__(self)
        for name, value in dict(*values, **names).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            refuse(f"gives a namespace the name {name!r:.80}")
        Namespace.__setitem__(self, name, value)


def attribute_of(value: Any, name: str) -> Any:
    """Return the attribute `value.name`, or MISSING, when it may still be an item.

    Only METHODS, VARIABLES and the names of a namespace can be reached.
    """
    if isinstance(value, PlainNamespace) and not name.startswith("_"):
        return getattr(value, name, MISSING)
    if name in VARIABLES.get(type(value), ()):
        return getattr(value, name)
    method = METHODS.get(type(value), {}).get(name)
    if method is not None:
        return Function(lambda budget, *values, **named: method(budget, value, *values, **named))
    if isinstance(value, Undefined) and not name.startswith("_"):
        value._fail_with_undefined_error()
    if hasattr(type(value), name) or not isinstance(value, (*Scalars, *Lists, dict)):
        if not name.startswith("_"):
            lack(f"{name!r:.80} of {describe(value)}")
        refuse(f"reaches for {name!r:.80} of {describe(value)}")
    return MISSING


def item_of(value: Any, key: Any) -> Any:
    """Return the item `value[key]`, or MISSING."""
    check_key(key)
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if not isinstance(value, (str, *Lists, dict, range)):
        return MISSING
    try:
        return value[key]
    except (TypeError, LookupError):
        return MISSING


def slice_of(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, str):
        budget.spend_text(len(value))
    elif isinstance(value, Lists):
        budget.spend_list(len(value))
    elif not isinstance(value, (range, Undefined)):
        refuse(f"takes a slice of {describe(value)}, expected a list or a text")
    return value[start:stop:step]


# --- arithmetic; Python itself refuses operands that do not fit


def calculate(budget: Budget, symbol: str, left: Any, right: Any) -> Any:
    if symbol == "%" and isinstance(left, str):
        return percent_format(budget, left, right)
    for value in (left, right):
        if not isinstance(value, (*Scalars, *Lists)):
            refuse(f"calculates with {describe(value)}, expected numbers or texts")
    return _CALCULATIONS[symbol](budget, left, right)


def _pay_for_copies(budget: Budget, value: Any, times: int = 1) -> None:
    """Pay for copying a string or list `times` times into a larger one."""
    if isinstance(value, str):
        budget.spend_text(len(value) * times)
    elif isinstance(value, Lists):
        budget.spend_list(len(value) * times)


def _add(budget: Budget, left: Any, right: Any) -> Any:
    growth = MARKUP_GROWTH if isinstance(left, Markup) or isinstance(right, Markup) else 1
    _pay_for_copies(budget, left, growth)
    _pay_for_copies(budget, right, growth)
    return left + right


def _multiply(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and times > 0:
            _pay_for_copies(budget, many, times)
    return left * right


def _power(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    return left**right


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        refuse(f"calculates a number of {bits} bits, expected at most {MAX_BITS}")


def _free(run: Callable[[Any, Any], Any]) -> Operation:
    """Make an operation that costs nothing: its result is small, and strings and lists fail."""
    return lambda budget, left, right: run(left, right)


_CALCULATIONS: dict[str, Operation] = {
    "+": _add,
    "-": _free(operator.sub),
    "*": _multiply,
    "/": _free(operator.truediv),
    "//": _free(operator.floordiv),
    "**": _power,
    "%": _free(operator.mod),
}

# A conversion of `%`: its width has two digits at most, and is not itself a parameter.
_CONVERSION = re.compile(r"%(?:\(\w{1,80}\))?[-+ 0#]{0,5}\d{0,2}(?:\.\d{1,2})?[diouxXeEfFgGcrsa%]")


def percent_format(budget: Budget, text: str, values: Any) -> str:
    budget.spend_search(text)
    if "%" in _CONVERSION.sub("", text):
        refuse("formats with % in a way that is not known to be harmless")
    for _ in range(text.count("%")):  # each may print all of a dict
        budget.spend(10)
        budget.spend_on(values, growth=REPR_GROWTH)
    return type(text)(restore_split(text % values))


# --- comparisons


def _compared(run: Callable[[Any, Any], Any]) -> Operation:
    def compared(budget: Budget, left: Any, right: Any) -> Any:
        budget.spend_on(left)
        budget.spend_on(right)
        return run(left, right)

    return compared


def is_in(budget: Budget, value: Any, container: Any) -> bool:
    if isinstance(container, dict):
        check_key(value)
    elif isinstance(container, str):
        budget.spend_search(container, value)
    elif not isinstance(container, Undefined):
        container = container if isinstance(container, Lists) else budget.listed(container)
        budget.spend_on([value, container])
    return value in container


COMPARISONS: dict[str, Operation] = {
    "eq": _compared(operator.eq),
    "ne": _compared(operator.ne),
    "lt": _compared(operator.lt),
    "lteq": _compared(operator.le),
    "gt": _compared(operator.gt),
    "gteq": _compared(operator.ge),
    "in": is_in,
    "notin": lambda budget, value, container: not is_in(budget, value, container),
}


def compare(budget: Budget, left: Any, kind: str, right: Any) -> Any:
    return COMPARISONS[check_key(kind)](budget, left, right)
