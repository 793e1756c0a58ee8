"""The generator is the published one, and its numbers are as random as they should be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.sampling.philox import fresh_seed, philox, uniform

# kat_vectors of Random123 1.14, philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_numbers(counter: str, key: str, result: str) -> None:
    a, b, c, d = words(counter)
    low, high = words(key)
    assert philox((a, b, c, d), (low, high)) == words(result)


def test_a_uniform_number_is_53_bits_of_the_first_two_words() -> None:
    a, b, _, _ = words("6627e8d5 e169c58d bc57ac4c 9b00dbd8")
    assert uniform(0, 0) == ((a >> 5) * 2**26 + (b >> 6)) / 2**53
    assert uniform(0, 0) == pytest.approx(a / 2**32, abs=2**-26)


def test_seed_step_index_and_purpose_each_have_their_words() -> None:
    a, b, _, _ = philox((5, 6, 7, 0), (0x89ABCDEF, 0x01234567))
    expected = ((a >> 5) * 2**26 + (b >> 6)) / 2**53
    assert uniform(0x0123456789ABCDEF, 5, 6, 7) == expected


@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**32 - 1),
)
def test_a_uniform_number_is_from_zero_to_below_one(seed: int, step: int, index: int) -> None:
    number = uniform(seed, step, index)
    assert 0 <= number < 1
    assert number * 2**53 == int(number * 2**53)
    assert number == uniform(seed, step, index)


SEQUENCES: dict[str, Callable[[int], float]] = {
    "steps": lambda i: uniform(7, i),
    "indices": lambda i: uniform(7, 0, i),
    "purposes": lambda i: uniform(7, 0, 0, i),
    "seeds": lambda i: uniform(i, 0),
    "high halves of seeds": lambda i: uniform(i << 32, 0),
}
COUNT, CELLS = 4096, 64


def chi_square(counts: list[int], expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts)


def bound(cells: int) -> float:
    """Five standard deviations above the mean of chi-square: wrong once in a million."""
    return cells - 1 + 5 * sqrt(2 * (cells - 1))


@pytest.mark.parametrize("name", SEQUENCES)
def test_numbers_are_spread_evenly(name: str) -> None:
    numbers = [SEQUENCES[name](i) for i in range(COUNT)]
    counts = [0] * CELLS
    for number in numbers:
        counts[int(number * CELLS)] += 1
    assert chi_square(counts, COUNT / CELLS) < bound(CELLS)
    assert abs(sum(numbers) / COUNT - 0.5) < 5 / sqrt(12 * COUNT)
    assert len(set(numbers)) == COUNT


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_number_tells_nothing_about_the_next(name: str) -> None:
    numbers = [SEQUENCES[name](i) for i in range(COUNT + 1)]
    counts = [0] * 64
    for first, second in pairwise(numbers):
        counts[int(first * 8) * 8 + int(second * 8)] += 1
    assert chi_square(counts, COUNT / 64) < bound(64)


def test_samples_of_one_request_are_not_shifted_copies() -> None:
    numbers = {uniform(3, step, index) for step in range(50) for index in range(50)}
    assert len(numbers) == 2500
    assert uniform(3, 1, 2) != uniform(3, 2, 1)


def test_low_bits_are_random_too() -> None:
    ones = sum(int(uniform(1, step) * 2**53) & 1 for step in range(COUNT))
    assert abs(ones - COUNT / 2) < 5 * sqrt(COUNT / 4)


def test_every_bit_of_the_seed_counts() -> None:
    numbers = {uniform(1 << bit, 0) for bit in range(64)} | {uniform(0, 0)}
    assert len(numbers) == 65


def test_fresh_seeds_are_short_and_differ() -> None:
    seeds = [fresh_seed() for _ in range(100)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert len(set(seeds)) > 95
