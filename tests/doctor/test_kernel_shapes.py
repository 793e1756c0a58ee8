"""The shapes that kernels are profiled at, given by hand or by a model."""

from __future__ import annotations

import pytest

from cullama.benchmark.shapes import SHAPES
from cullama.doctor.kernels.shapes import chosen_cases, parse_shape
from cullama.errors import UsageError

CONFIG = SHAPES["llama-3.2-1b"]


def test_a_number_that_is_not_given_is_the_models() -> None:
    (case,) = chosen_cases(["attention, decode"], CONFIG, [parse_shape("context=88, sequences=2")])
    assert case.numbers == {
        "sequences": 2,
        "tokens": 1,
        "context": 88,
        "window": 0,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 64,
    }


def test_an_operator_has_all_of_its_variants() -> None:
    assert [case.name for case in chosen_cases(["linear", "sample, drawn"], CONFIG)] == [
        *("linear, one row", "linear, few rows", "sample, drawn")
    ]


def test_variants_that_a_shape_makes_equal_are_one_case() -> None:
    assert len(chosen_cases(["linear"], CONFIG, [{"rows": 2}, {"rows": 3}])) == 2


def test_all_operators_fit_every_known_model() -> None:
    for config in SHAPES.values():
        assert len(chosen_cases([], config)) == 15


@pytest.mark.parametrize(
    ("operators", "shape", "complaint"),
    [
        ("", "rows=1", "--shape needs an operator beside it"),
        ("softmax", "rows=1", "there is no operator 'softmax', expected some of embed, linear"),
        ("linear, two rows", "rows=1", "there is no operator 'linear, two rows'"),
        ("linear", "rows", "--shape is 'rows', expected NAME=NUMBER"),
        ("linear", "rows=-1", "--shape is 'rows=-1', expected NAME=NUMBER"),
        ("linear", "rows=0", "rows is 0, expected 1 to 16,777,216"),
        ("linear", "rows=1,rows=2", "gives rows twice"),
        ("linear", "heads=2", "linear has no heads, expected some of rows, inputs, outputs"),
        ("attention", "heads=9,kv_heads=2", "heads is 9, expected a multiple of kv_heads, 2"),
        ("attention, decode", "tokens=2,context=1", "expected at most context, 1"),
        ("attention", "head_dim=512", "head_dim is 512, expected an even number up to 256"),
        ("sample", "drawn=2", "drawn is 2, expected 0 (the likeliest token) or 1"),
        ("embed", "rows=16777216,columns=16777216", "expected at most 1.1 TB"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(operators: str, shape: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen_cases([operators] if operators else [], CONFIG, [parse_shape(shape)])
    assert complaint in str(caught.value)
