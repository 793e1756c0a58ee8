"""Filters, tests and methods of templates: as jinja2's own, whatever values and arguments they get.

Each is called with drawn values and arguments in the sandbox and in jinja2 as transformers sets it
up: both print the same text, or both fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.tests import TESTS
from jinja_twin import jinja_environment

from cullama.chat.sandbox.budget import Budget
from cullama.chat.sandbox.environment import SafeTemplate
from cullama.chat.sandbox.filters import SAFE_FILTERS
from cullama.chat.sandbox.methods import METHODS
from cullama.chat.sandbox.tests_and_globals import SAFE_TESTS

EXAMPLES = 25  # for each of some 150 filters, tests, methods and operators
LEFT_OUT = {"random", "urlize", "xmlattr"}
OWN = {"from_json"}  # of llama.cpp, not of jinja2

TEXTS = st.text(st.sampled_from("abAB ,.%{}<&'\"\n\t-0123é東🦙"), max_size=12) | st.sampled_from(
    ["a", "b", "a.b", "0", "a,b", "odd", "eq", "upper", "length", "key", "value", "%s %s", "ceil"]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 40) | TEXTS
DICTS = st.dictionaries(st.sampled_from(["a", "b", "role"]), SCALARS, max_size=3)
VALUES = (
    SCALARS
    | st.floats(-9, 9).map(lambda value: round(value, 3))
    | st.lists(TEXTS, max_size=5)
    | st.lists(st.integers(-9, 9), max_size=5)
    | st.lists(DICTS, max_size=4)
    | st.lists(st.tuples(TEXTS, SCALARS), max_size=3)
    | st.lists(st.lists(SCALARS, max_size=2), max_size=3)
    | DICTS
    | st.dictionaries(TEXTS, st.lists(SCALARS, max_size=3), max_size=3)
)
ARGUMENTS = st.lists(SCALARS | st.lists(TEXTS, max_size=2), max_size=3)
KEYWORDS = (
    "attribute default case_sensitive reverse by width first blank length end killwords leeway "
    "fill_with start indent sort_keys precision method"
)
NAMED = st.dictionaries(st.sampled_from(KEYWORDS.split()), SCALARS, max_size=2)

Outcome = str | None  # the text, or None where it fails


def outcome(render: Callable[[], str]) -> Outcome:
    try:
        return render()
    except Exception:
        return None


class Twins:
    """One template in the sandbox and in jinja2."""

    def __init__(self, source: str) -> None:
        self.ours, self.theirs = SafeTemplate(source), jinja_environment().from_string(source)

    def compare(self, **variables: Any) -> None:
        theirs = outcome(lambda: self.theirs.render(**variables))
        ours = outcome(lambda: self.ours.render(variables, Budget(1_000_000)))
        if theirs is None or "<generator object" in theirs:  # whose address it would print
            assert ours is None
        else:
            assert ours == theirs


def listed(expression: str) -> str:
    """Return a template that prints the value, and the parts of an iterator."""
    return (
        f"{{% set x = {expression} %}}"
        "{% if x is iterable and x is not string %}{{ x | list }}{% else %}{{ x }}{% endif %}"
    )


def test_all_filters_of_jinja2_are_there_but_for_those_that_no_prompt_needs() -> None:
    assert SAFE_FILTERS.keys() == FILTERS.keys() - LEFT_OUT | OWN
    assert SAFE_TESTS.keys() == TESTS.keys()


@pytest.mark.parametrize("name", sorted(SAFE_FILTERS.keys() - OWN))
def test_a_filter_does_what_jinja2s_does(name: str) -> None:
    twins = Twins(listed(f"value | {name}(*arguments, **named)"))
    marked = Twins(listed(f"(value | safe) | {name}(*arguments)"))
    missing = Twins(listed(f"undefined | {name}(*arguments)"))

    @given(VALUES, ARGUMENTS, NAMED)
    @settings(max_examples=EXAMPLES)
    @example(None, [], {})
    def compare(value: Any, arguments: list[Any], named: dict[str, Any]) -> None:
        twins.compare(value=value, arguments=arguments, named=named)
        twins.compare(value=value, arguments=[], named={})
        if isinstance(value, str):
            marked.compare(value=value, arguments=arguments)
        if value is None:
            missing.compare(arguments=arguments)

    compare()


@pytest.mark.parametrize("name", sorted(SAFE_TESTS.keys()))
def test_a_test_does_what_jinja2s_does(name: str) -> None:
    twins = Twins(f"{{{{ value | select('{name}', *arguments) | list }}}}")

    @given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=1))
    @settings(max_examples=EXAMPLES)
    def compare(value: list[Any], arguments: list[Any]) -> None:
        twins.compare(value=value, arguments=arguments)
        twins.compare(value=value, arguments=[])

    compare()


@pytest.mark.parametrize("name", sorted(METHODS[str]))
def test_a_method_of_a_text_does_what_jinja2s_does(name: str) -> None:
    plain, marked = (
        Twins(listed(f"({value}).{name}(*arguments)")) for value in ("value", "value | safe")
    )

    @given(TEXTS, ARGUMENTS)
    @settings(max_examples=EXAMPLES)
    def compare(value: str, arguments: list[Any]) -> None:
        for twins in (plain, marked):
            twins.compare(value=value, arguments=arguments)

    compare()


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in"])
def test_an_operator_does_what_jinja2s_does(symbol: str) -> None:
    twins = [
        Twins(f"{{{{ {left} {symbol} {right} }}}}")
        for left in ("left", "left | string | safe")
        for right in ("right", "right | string | safe")
    ]

    powers = symbol == "**"  # others give complex numbers, which the sandbox does not print

    @given(*([st.integers(-9, 9)] * 2 if powers else [VALUES, VALUES]))
    @settings(max_examples=EXAMPLES)
    def compare(left: Any, right: Any) -> None:
        for twin in twins:
            twin.compare(left=left, right=right)

    compare()


# --- what jinja2 does not have


def test_from_json_reads_what_tojson_writes() -> None:
    source = "{{ ('[1, {\"a\": null}]' | from_json)[1] }}"
    assert SafeTemplate(source).render({}, Budget(1_000)) == "{'a': None}"


def test_tojson_takes_what_map_and_select_give_as_in_llama_cpp() -> None:
    source = "{{ [1, 2] | map('string') | tojson }}{{ [1, 2] | select('odd') | tojson }}"
    assert SafeTemplate(source).render({}, Budget(1_000)) == '["1", "2"][1]'


def test_lists_grow_and_shrink_as_in_llama_cpp() -> None:
    source = "{% set q = [1] %}{% set _ = q.append(2) %}{{ q.pop(0) }}{{ q }}"
    assert SafeTemplate(source).render({}, Budget(1_000)) == "1[2]"


def test_a_list_that_holds_itself_is_refused_when_it_is_used() -> None:
    for use in ("{{ q }}", "{{ q | tojson }}", "{{ q == [q] }}", "{{ q | pprint }}"):
        source = "{% set q = [] %}{% set _ = q.append(q) %}" + use
        with pytest.raises(SecurityError, match="nests lists more than 100 deep"):
            SafeTemplate(source).render({}, Budget(100_000))
