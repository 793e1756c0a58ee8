"""Rows of a table: embedding, and picking the tokens whose logits are wanted."""

from __future__ import annotations

import numpy as np
import pytest
from subject import Subject


@pytest.mark.parametrize(
    ("vocabulary", "width"),
    [(257, 31), (31, 257), (97, 97), (1, 3), (3, 1), (1, 1), (192, 31), (64, 1), (128, 257)],
)
def test_rows_of_a_weight_in_either_layout_are_exact(
    subject: Subject, rng: np.random.Generator, vocabulary: int, width: int
) -> None:
    table = subject.rounded(rng.normal(size=(vocabulary, width)))
    rows = rng.integers(0, vocabulary, 33)
    picked = subject.ops.embed(subject.weight(table), subject.integers(rows))
    np.testing.assert_array_equal(subject.floats(picked), table[rows])


def test_a_table_that_also_predicts_serves_both(subject: Subject, rng: np.random.Generator) -> None:
    for shape in [(97, 31), (31, 97), (128, 31)]:
        table = subject.rounded(rng.normal(size=shape))
        tied = subject.weight(table)
        x = subject.ops.embed(tied, subject.integers([3, 0]))
        subject.check(subject.linear(x, tied), table[[3, 0]] @ table.T)


def test_rows_may_repeat_and_stand_in_any_order(subject: Subject, rng: np.random.Generator) -> None:
    x = subject.rounded(rng.normal(size=(5, 3)))
    rows = [4, 4, 0, 4, 2, 0]
    picked = subject.ops.gather(subject.activation(x), subject.integers(rows))
    np.testing.assert_array_equal(subject.floats(picked), x[rows])


def test_the_first_and_the_last_row_are_reached(subject: Subject, rng: np.random.Generator) -> None:
    for size in (1031, 1024):
        table, ends = subject.rounded(rng.normal(size=(size, 7))), [0, size - 1]
        picked = subject.ops.embed(subject.weight(table), subject.integers(ends))
        np.testing.assert_array_equal(subject.floats(picked), table[ends])


def test_a_table_of_rotations_keeps_all_its_digits(
    subject: Subject, rng: np.random.Generator
) -> None:
    """Cosines are float32 in every storage type: half precision would blur far positions."""
    table = rng.normal(size=(33, 12)).astype(np.float32)
    picked = subject.ops.gather(subject.ops.upload(table), subject.integers([7, 0, 32]))
    np.testing.assert_array_equal(subject.ops.download(picked), table[[7, 0, 32]])


def test_no_rows_are_no_rows(subject: Subject) -> None:
    picked = subject.ops.gather(subject.activation(np.ones((4, 3))), subject.integers([]))
    assert subject.floats(picked).shape == (0, 3)


def test_what_was_gathered_is_a_copy(subject: Subject) -> None:
    x = subject.activation(np.ones((3, 4)))
    doubled = subject.ops.add(subject.ops.gather(x, subject.integers([0, 1, 2])), x)
    np.testing.assert_array_equal(subject.floats(doubled), 2)
    np.testing.assert_array_equal(subject.floats(x), 1)
