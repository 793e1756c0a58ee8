"""What other libraries call it: understood where it can only mean one thing, else answered."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from inspect import signature
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama import LLM, SamplingParams
from cullama.errors import UnknownOptionError, UsageError
from cullama.sampling.dialect import GENERATING, LOADING, SAMPLING, explain_names
from cullama.sampling.params import MAX_VALUE

NAMES = {item.name for item in fields(SamplingParams)}

any_params = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 99),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 99),
    seed=st.none() | st.integers(0, 99),
    stop=st.lists(st.text(min_size=1), max_size=2),
    stop_token_ids=st.lists(st.integers(0, 99), max_size=2),
    logit_bias=st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=2),
    include_stop=st.booleans(),
)


@pytest.mark.parametrize("name", ["top_k", "seed", "max_tokens"])
def test_a_whole_number_that_is_expected_is_spelled_in_whole_numbers(name: str) -> None:
    wrong: dict[str, Any] = {name: 1.5}
    with pytest.raises(UsageError, match=r"expected a whole number from 0 to [0-9,]+( or none)?$"):
        SamplingParams(**wrong)


def test_minus_one_means_what_it_means_elsewhere() -> None:
    assert SamplingParams(top_k=-1) == SamplingParams(top_k=0)
    assert SamplingParams(seed=-1) == SamplingParams(seed=None)
    assert SamplingParams(max_tokens=-1).max_tokens == -1


@pytest.mark.parametrize("name", sorted(NAMES))
def test_none_is_the_default(name: str) -> None:
    nothing: dict[str, Any] = {name: None}
    assert SamplingParams(**nothing) == SamplingParams()


@pytest.mark.parametrize(
    "bias",
    [
        {5: 1.5, 7: -MAX_VALUE},
        {"5": 1.5, "7": -math.inf},
        [[5, 1.5], [7, False]],
        ((5, 1.5), (7, -math.inf)),
        {np.int64(5): np.float32(1.5), np.uint8(7): -MAX_VALUE},
    ],
    ids=str,
)
def test_every_form_of_logit_bias_is_understood(bias: Any) -> None:
    assert SamplingParams(logit_bias=bias).logit_bias == {5: 1.5, 7: -MAX_VALUE}


@pytest.mark.parametrize("bias", [[5], [[5]], [[5, 1, 2]], ["ab"], {5: math.nan}, {"llama": 1}])
def test_a_logit_bias_that_means_nothing_is_refused(bias: Any) -> None:
    with pytest.raises(UsageError, match="logit_bias"):
        SamplingParams(logit_bias=bias)


def test_numpy_s_numbers_become_python_s_own() -> None:
    numbers: dict[str, Any] = {
        "max_tokens": np.int64(5),
        "temperature": np.float32(0.5),
        "seed": np.uint64(2**63),
        "stop": [np.str_("END")],
        "stop_token_ids": np.array([1, 2]),
    }
    params = SamplingParams(**numbers)
    plain = SamplingParams(
        max_tokens=5, temperature=0.5, seed=2**63, stop=("END",), stop_token_ids=(1, 2)
    )
    assert params == plain
    assert json.dumps(asdict(params)) == json.dumps(asdict(plain))
    with pytest.raises(UsageError, match="top_k is"):
        SamplingParams(top_k=np.float32(3))


@given(any_params)
def test_params_can_be_pickled_copied_hashed_and_read_from_their_repr(
    params: SamplingParams,
) -> None:
    for twin in (
        pickle.loads(pickle.dumps(params)),
        copy.deepcopy(params),
        params.replace(),
        SamplingParams(**json.loads(json.dumps(asdict(params)))),
        eval(repr(params)),
    ):
        assert twin == params
        assert hash(twin) == hash(params)


def test_the_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(SamplingParams()) == "SamplingParams()"
    params = SamplingParams(max_tokens=5, stop="END")  # type: ignore[arg-type]
    assert repr(params) == "SamplingParams(max_tokens=5, stop=('END',))"


def test_a_copy_with_changes_is_checked_again() -> None:
    params = SamplingParams(seed=1)
    assert params.replace(top_k=3) == SamplingParams(seed=1, top_k=3)
    with pytest.raises(UsageError, match="top_p is 7"):
        params.replace(top_p=7)
    with pytest.raises(UnknownOptionError, match="here it is max_tokens"):
        params.replace(max_new_tokens=7)


# --- names


@pytest.mark.parametrize(("name", "here"), SAMPLING.items())
def test_a_parameter_of_another_name_is_answered_with_ours(name: str, here: str) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(UnknownOptionError, match=re.escape(f"no {name!r}; here it is {here}")):
        SamplingParams(**options)
    with pytest.raises(TypeError):
        SamplingParams(**options)


@pytest.mark.parametrize(("name", "here"), LOADING.items())
def test_an_option_of_another_name_is_answered_before_anything_is_loaded(
    name: str, here: str
) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(UnknownOptionError, match=re.escape(f"no {name!r}; here it is {here}")):
        LLM("no/such/model", **options)


def parameters(function: Any) -> set[str]:
    return set(signature(function).parameters)


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (SAMPLING, NAMES),
        (LOADING, parameters(LLM) | {"SamplingParams"}),
        (GENERATING, parameters(LLM.generate) | parameters(LLM.chat) | {"llm"}),
    ],
    ids=["sampling", "loading", "generating"],
)
def test_what_an_answer_names_exists(table: Mapping[str, str], known: set[str]) -> None:
    for name, here in table.items():
        word = re.match(r"\w+", here)
        assert word is not None
        assert word[0] in known | {"left"}, name
        assert name not in known


@pytest.mark.parametrize("call", [LLM.generate, LLM.chat, LLM.stream, LLM.stream_chat])
def test_parameters_in_the_place_of_a_call_s_arguments_are_answered(call: Any) -> None:
    nothing: Any = None
    for name, message in {
        "max_tokens": r"it is a parameter of SamplingParams: SamplingParams\(max_tokens=…\)",
        "temp": "it is a parameter of SamplingParams, here temperature",
        "sampling_params": "here it is params",
        "priorty": "did you mean priority",
        "nonsense": "expected one of",
    }.items():
        with pytest.raises(UnknownOptionError, match=message):
            call(nothing, "Once", **{name: 1})


def test_a_decorated_function_keeps_its_signature() -> None:
    def plain(one: int, *, two: int = 2) -> int:
        """Add."""
        return one + two

    explained = explain_names({})(plain)
    assert signature(explained) == signature(plain)
    assert (explained.__name__, explained.__doc__) == ("plain", "Add.")
    assert explained(1, two=3) == 4
    assert str(signature(LLM)).startswith("(model: ")
