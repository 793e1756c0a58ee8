"""add, mul and matmul: NumPy's rules, whatever the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Floats
from subject import Subject

from cullama.errors import CullamaError

Shapes = tuple[tuple[int, ...], tuple[int, ...]]

ELEMENTWISE: list[Shapes] = [
    ((3,), (3,)),
    ((31, 33), (31, 33)),
    ((31, 33), (33,)),
    ((33,), (31, 33)),
    ((31, 1), (1, 33)),
    ((31, 1), (33,)),
    ((2, 3, 5), (3, 1)),
    ((2, 1, 5), (3, 1)),
    ((1,), (97,)),
    ((), (3, 5)),
    ((3, 5), ()),
    ((), ()),
    ((0, 5), (5,)),
    ((1, 5), (0, 1)),
]

PRODUCTS: list[Shapes] = [
    ((3, 5), (5, 7)),
    ((1, 1), (1, 1)),
    ((31, 97), (97, 33)),
    ((5,), (5,)),
    ((5,), (5, 7)),
    ((3, 5), (5,)),
    ((2, 3, 5), (2, 5, 7)),
    ((2, 3, 5), (5, 7)),
    ((3, 5), (2, 5, 7)),
    ((2, 1, 3, 5), (4, 5, 7)),
    ((1, 3, 5), (4, 5, 7)),
    ((5,), (4, 5, 7)),
    ((4, 3, 5), (5,)),
    ((0, 5), (5, 7)),
    ((3, 0), (0, 7)),
]


def operands(subject: Subject, rng: np.random.Generator, shapes: Shapes) -> list[Floats]:
    return [subject.rounded(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("shapes", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("name", ["add", "mul"])
def test_elementwise(subject: Subject, rng: np.random.Generator, name: str, shapes: Shapes) -> None:
    x, y = operands(subject, rng, shapes)
    operator = getattr(subject.ops, name)
    expected = x + y if name == "add" else x * y
    subject.check(operator(subject.activation(x), subject.activation(y)), expected)


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_matmul(subject: Subject, rng: np.random.Generator, shapes: Shapes) -> None:
    x, y = operands(subject, rng, shapes)
    actual = subject.ops.matmul(subject.activation(x), subject.activation(y))
    subject.check(actual, np.matmul(x, y))


@pytest.mark.parametrize("name", ["add", "mul", "matmul"])
def test_operands_with_a_stride_of_zero(
    subject: Subject, rng: np.random.Generator, name: str
) -> None:
    """One matrix seen as a batch of four: uploaded as it stands, not by way of a copy."""
    x, y = operands(subject, rng, ((5, 5), (4, 5, 5)))
    repeated = np.broadcast_to(x.astype(subject.activation_type), (4, 5, 5))
    operator = getattr(subject.ops, name)
    rule: Callable[..., Any] = {"add": np.add, "mul": np.multiply, "matmul": np.matmul}[name]
    on_device = subject.activation(y)
    subject.check(operator(subject.ops.upload(repeated), on_device), rule(x, y))
    subject.check(operator(on_device, subject.ops.upload(repeated)), rule(y, x))


@pytest.mark.parametrize("name", ["add", "mul", "matmul"])
def test_operands_seen_from_another_side(
    subject: Subject, rng: np.random.Generator, name: str
) -> None:
    x, y = operands(subject, rng, ((5, 3), (3, 5)))
    operator = getattr(subject.ops, name)
    rule: Callable[..., Any] = {"add": np.add, "mul": np.multiply, "matmul": np.matmul}[name]
    turned = subject.ops.upload(x.astype(subject.activation_type).T)
    backwards = subject.ops.upload(y.astype(subject.activation_type)[:, ::-1])
    if name == "matmul":
        turned = subject.ops.upload(x.astype(subject.activation_type).T[:, :3])
        expected = rule(x.T[:, :3], y[:, ::-1])
    else:
        expected = rule(x.T, y[:, ::-1])
    subject.check(operator(turned, backwards), expected)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("add", ((3,), (4,))),
        ("add", ((2, 3), (2,))),
        ("mul", ((3, 4), (4, 3))),
        ("mul", ((2, 3, 4), (2, 1, 4, 4))),
        ("matmul", ((3, 4), (3, 4))),
        ("matmul", ((3,), (4,))),
        ("matmul", ((2, 3, 4), (3, 4, 5))),
        ("matmul", ((), (3,))),
    ],
)
def test_shapes_that_do_not_match_are_refused(subject: Subject, name: str, shapes: Shapes) -> None:
    x, y = (subject.activation(np.ones(shape)) for shape in shapes)
    with pytest.raises((ValueError, CullamaError)):
        getattr(subject.ops, name)(x, y)


@pytest.mark.parametrize("name", ["add", "mul", "matmul"])
def test_no_operand_is_changed(subject: Subject, rng: np.random.Generator, name: str) -> None:
    x, y = operands(subject, rng, ((5, 5), (5, 5)))
    on_device = subject.activation(x), subject.activation(y)
    getattr(subject.ops, name)(*on_device)
    np.testing.assert_array_equal(subject.floats(on_device[0]), x)
    np.testing.assert_array_equal(subject.floats(on_device[1]), y)


def test_an_operand_may_stand_on_both_sides(subject: Subject, rng: np.random.Generator) -> None:
    (x,) = operands(subject, rng, ((5, 5), (5, 5)))[:1]
    on_device = subject.activation(x)
    subject.check(subject.ops.add(on_device, on_device), 2 * x)
    subject.check(subject.ops.mul(on_device, on_device), x * x)
    subject.check(subject.ops.matmul(on_device, on_device), x @ x)


@pytest.mark.parametrize("magnitude", [1e-3, 1e3])
def test_magnitudes_from_tiny_to_large(
    subject: Subject, rng: np.random.Generator, magnitude: float
) -> None:
    x = subject.rounded(rng.normal(size=(33, 31)) * magnitude)
    y = subject.rounded(rng.normal(size=(31, 33)) / magnitude)
    on_device = subject.activation(x), subject.activation(y)
    subject.check(subject.ops.matmul(*on_device), x @ y)
    subject.check(subject.ops.mul(on_device[0], subject.activation(y.T)), x * y.T)
