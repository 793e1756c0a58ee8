"""One prompt or many, of any kind of list that people have."""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama import SamplingParams
from cullama.errors import UsageError
from cullama.text.prompts import as_list, asked_conversations, asked_prompts, params_of_each

IDS, TEXTS = [5, 6, 7], ["A cat", "A dog"]
GREEDY, DRAWN = SamplingParams(temperature=0), SamplingParams(seed=1)
MESSAGE = {"role": "user", "content": "Hi"}


class Series:
    """What pandas, torch and jax have in common."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values


class Table:
    """Iterates over the names of its columns, as pandas' tables do."""

    def __iter__(self) -> Any:
        return iter(TEXTS)


def kinds(values: list[Any]) -> list[Any]:
    return [
        values,
        tuple(values),
        deque(values),
        iter(values),
        (value for value in values),
        np.array(values),
        Series(values),
        dict.fromkeys(values).keys(),
        dict(enumerate(values)).values(),
    ]


@pytest.mark.parametrize("prompt", kinds(IDS), ids=lambda it: type(it).__name__)
def test_token_ids_in_any_list_are_one_prompt(prompt: Any) -> None:
    assert asked_prompts(prompt) == ([IDS], "prompts", False)


@pytest.mark.parametrize("prompts", kinds(TEXTS), ids=lambda it: type(it).__name__)
def test_texts_in_any_list_are_several_prompts(prompts: Any) -> None:
    assert asked_prompts(prompts) == (TEXTS, "prompts", True)


@pytest.mark.parametrize(
    "prompts",
    [[IDS, IDS], (IDS, tuple(IDS)), np.array([IDS, IDS]), [np.array(IDS)] * 2, [array("q", IDS)]],
    ids=str,
)
def test_lists_of_token_ids_are_several_prompts(prompts: Any) -> None:
    asked = asked_prompts(prompts)
    assert asked.is_list
    assert all(as_list(item) == IDS for item in asked.items)


def test_a_text_is_one_prompt_and_nothing_is_none() -> None:
    assert asked_prompts("A cat") == (["A cat"], "prompts", False)
    assert asked_prompts(np.str_("A cat")) == (["A cat"], "prompts", False)
    assert asked_prompts([]) == ([], "prompts", True)
    assert asked_prompts(iter(())) == ([], "prompts", True)


@pytest.mark.parametrize(
    "value",
    [None, 5, b"Once", {"a", "b"}, {"role": "user"}, Table(), np.array(5), print],
    ids=lambda value: type(value).__name__,  # the same in every process
)
def test_what_is_no_list_is_refused(value: Any) -> None:
    assert as_list(value) is None
    with pytest.raises(UsageError, match="expected a text, token ids, or a list"):
        asked_prompts(value)


@given(st.lists(st.integers(-(2**40), 2**40)))
def test_arrays_become_python_s_numbers(numbers: list[int]) -> None:
    listed = as_list(np.array(numbers, np.int64))
    assert listed == numbers
    assert all(type(number) is int for number in listed)


def test_a_list_of_lists_is_several_conversations() -> None:
    one = [MESSAGE]
    assert asked_conversations(one) == ([one], "messages", False)
    assert asked_conversations(iter(one)) == ([one], "messages", False)
    assert asked_conversations([one, (MESSAGE,)]) == ([one, (MESSAGE,)], "messages", True)
    assert asked_conversations([]) == ([[]], "messages", False)


def test_params_are_the_same_for_all_or_those_of_each() -> None:
    asked = asked_prompts(TEXTS)
    assert params_of_each(GREEDY, asked, DRAWN) == [GREEDY, GREEDY]
    assert params_of_each(None, asked, DRAWN) == [DRAWN, DRAWN]
    assert params_of_each([GREEDY, None], asked, DRAWN) == [GREEDY, DRAWN]
    assert params_of_each((it for it in (GREEDY, DRAWN)), asked, DRAWN) == [GREEDY, DRAWN]
    assert params_of_each([], asked_prompts([]), DRAWN) == []


@pytest.mark.parametrize(
    ("params", "prompts", "message"),
    [
        ([GREEDY], TEXTS, "params holds 1, prompts 2; expected one SamplingParams for each"),
        ([], TEXTS, "params holds 0, prompts 2"),
        ([GREEDY, {"seed": 1}], TEXTS, r"params\[1\] is {'seed': 1}, expected SamplingParams"),
        ([GREEDY], "A cat", r"params is \[.*, expected SamplingParams"),
        ({"seed": 1}, TEXTS, "params is {'seed': 1}, expected SamplingParams"),
    ],
)
def test_params_that_fit_no_prompt_are_refused(params: Any, prompts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        params_of_each(params, asked_prompts(prompts), DRAWN)
