"""silu(gate) · up, also where e^gate is too large for a float32."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from subject import Subject


@pytest.mark.parametrize("half", [1, 3, 31, 33, 97, 257])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 20.0])
def test_gate_and_up(
    subject: Subject, rng: np.random.Generator, tokens: int, half: int, magnitude: float
) -> None:
    x = subject.rounded(rng.normal(size=(tokens, 2 * half)) * magnitude)
    subject.check(subject.ops.silu_mul(subject.activation(x)), reference.silu_mul(x))


@pytest.mark.parametrize("gate", [80.0, 88.0, 89.0, 100.0, 1e3, 1e4])
def test_a_gate_far_from_zero_is_open_or_shut(subject: Subject, gate: float) -> None:
    gate = float(subject.rounded(gate))
    x = np.array([[gate, -gate, 2.0, 2.0]])
    actual = subject.floats(subject.ops.silu_mul(subject.activation(x)))
    assert actual[0, 0] == 2 * gate
    assert abs(actual[0, 1]) < 1e-30


def test_a_shut_gate_beats_a_large_value(subject: Subject) -> None:
    x = subject.rounded([[-1e4, 1e4]])
    assert abs(subject.floats(subject.ops.silu_mul(subject.activation(x)))[0, 0]) < 1e-25


def test_a_gate_of_zero_is_shut(subject: Subject) -> None:
    x = np.array([[0.0, -0.0, 5.0, 1e4]])
    np.testing.assert_array_equal(subject.floats(subject.ops.silu_mul(subject.activation(x))), 0)


def test_the_first_half_is_the_gate(subject: Subject) -> None:
    x = np.array([[-8.0, 3.0]])  # silu(3) · −8 would be −22.9
    subject.check(subject.ops.silu_mul(subject.activation(x)), reference.silu_mul(x))
    assert abs(subject.floats(subject.ops.silu_mul(subject.activation(x)))[0, 0]) < 0.01


def test_the_input_stays_as_it_was(subject: Subject, rng: np.random.Generator) -> None:
    x = subject.rounded(rng.normal(size=(3, 34)))
    on_device = subject.activation(x)
    subject.ops.silu_mul(on_device)
    np.testing.assert_array_equal(subject.floats(on_device), x)


def test_no_tokens_are_no_tokens(subject: Subject) -> None:
    actual = subject.ops.silu_mul(subject.activation(np.ones((0, 6))))
    assert subject.floats(actual).shape == (0, 3)
