"""Activations as 16-bit integers in two signed bytes, with a scale for each 32 columns."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_cpu import NAMES, in_each_instruction_set, run
from numpy.typing import NDArray

from cullama.cpu.compiled.activation_quantisation import (
    GROUPS_IN_CHUNK,
    MAX_QUANT,
    QUANTISE_ACTIVATIONS,
    RECORD,
    WORD_ORDER,
)
from cullama.cpu.jit.instruction_sets import choose_instruction_set
from cullama.files.quantized_blocks import GROUP

Floats = NDArray[np.float32]

# A group's record: [high 32][low 32][scale][scale · sum][sums of both halves].
KIND = np.dtype(
    [("high", "i1", 32), ("low", "i1", 32), ("scale", "f4"), ("scaled", "f4"), ("sums", "i4", 2)]
)
# Or, where words are multiplied, [words 32] with the even ones of four columns first.
WORDS = np.dtype([("words", "<i2", 32), ("scale", "f4"), ("scaled", "f4"), ("sums", "i4", 2)])


def quantised(name: str, x: Floats, threads: int = 1) -> NDArray[np.void]:
    """[groups, 32] → [groups] records, with nothing of what lay there before."""
    out = np.full((len(x), RECORD), 0xEE, np.uint8)
    chunks = -(-len(x) // GROUPS_IN_CHUNK)
    run(
        name,
        QUANTISE_ACTIVATIONS,
        chunks,
        threads,
        x=np.ascontiguousarray(x),
        out=out,
        groups=len(x),
    )
    assert KIND.itemsize == RECORD
    return out.view(KIND if choose_instruction_set(name).multiplies == "bytes" else WORDS)[:, 0]


def quants(records: NDArray[np.void]) -> NDArray[np.int64]:
    """[groups, 32]"""
    if "words" in (records.dtype.names or ()):
        words = np.empty((len(records), 8, 4), np.int64)
        words[..., list(WORD_ORDER)] = records["words"].reshape(-1, 8, 4)
        return words.reshape(-1, GROUP)
    return records["high"].astype(np.int64) * 256 + records["low"]


def random(groups: int) -> Floats:
    """Each group in a magnitude of its own."""
    draw = np.random.default_rng(groups)
    scales = 10.0 ** draw.uniform(-20, 20, (groups, 1))
    return (draw.standard_normal((groups, GROUP)) * scales).astype(np.float32)


@in_each_instruction_set
@pytest.mark.parametrize("groups", [1, 2, 255, 256, 257, 600])
def test_the_error_is_at_most_half_a_step_of_the_group(name: str, groups: int) -> None:
    x = random(groups)
    records = quantised(name, x)
    found = quants(records) * records["scale"].astype(np.float64)[:, None]
    largest = np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(found - x) <= largest / MAX_QUANT * 0.51).all()
    assert (np.abs(found - x) < largest * 2.0**-15).all()  # as the file says
    assert np.abs(quants(records)).max() == MAX_QUANT


@in_each_instruction_set
def test_sums_are_those_of_the_quants(name: str) -> None:
    records = quantised(name, random(300))
    halves = quants(records).reshape(-1, 2, 16).sum(axis=2)
    np.testing.assert_array_equal(records["sums"], halves)
    expected = halves.sum(axis=1).astype(np.float32) * records["scale"]
    np.testing.assert_array_equal(records["scaled"], expected)


@in_each_instruction_set
@pytest.mark.parametrize("value", [1.0, -1.0, 3e38, -3e38, 1e-30, -1e-30, 1e30])
def test_the_largest_of_a_group_is_exact_wherever_it_stands(name: str, value: float) -> None:
    """And both of its bytes fit, with either sign."""
    x = (np.eye(GROUP) * value).astype(np.float32)
    records = quantised(name, x)
    np.testing.assert_array_equal(quants(records), np.eye(GROUP) * np.sign(value) * MAX_QUANT)
    np.testing.assert_allclose(records["scale"], abs(value) / MAX_QUANT, rtol=1e-6)


@in_each_instruction_set
def test_every_integer_is_quantised_to_itself(name: str) -> None:
    """From −32,512 to 32,512 all of them, beside one that sets the scale to 1."""
    most = int(MAX_QUANT)
    every = np.arange(-most, most + 1)
    numbers = np.concatenate([every, np.zeros(-len(every) % 31, np.int64)]).reshape(-1, 31)
    x = np.concatenate([np.full((len(numbers), 1), most), numbers], axis=1).astype(np.float32)
    records = quantised(name, x)
    np.testing.assert_array_equal(quants(records), x)
    np.testing.assert_array_equal(records["scale"], 1)


@in_each_instruction_set
def test_zeros_stay_zeros(name: str) -> None:
    x = np.zeros((2, GROUP), np.float32)
    x[1] = -0.0
    assert not quantised(name, x).view(np.uint8).any()


@in_each_instruction_set
@pytest.mark.parametrize("tiny", [1e-34, 1e-37, 1e-45])
def test_numbers_too_small_for_a_scale_become_zeros(name: str, tiny: float) -> None:
    """Whether all of a group is, or one number among zeros."""
    x = np.full((2, GROUP), tiny, np.float32)
    x[1, 1:] = 0
    records = quantised(name, x)
    assert (np.abs(quants(records) * records["scale"][:, None] - x) <= 1.1e-34).all()
    np.testing.assert_array_equal(records["sums"], quants(records).reshape(-1, 2, 16).sum(axis=2))


@in_each_instruction_set
@pytest.mark.parametrize("none", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 15, 16, 17, 31])
def test_a_group_with_nan_or_infinity_has_no_finite_scale(
    name: str, place: int, none: float
) -> None:
    """Its products are NaN or infinite then, and its neighbours' are as they were."""
    x = random(3)
    expected = quantised(name, x)
    x[1, place] = none
    records = quantised(name, x)
    assert not np.isfinite(records["scale"][1])
    assert not np.isfinite(records["scaled"][1])
    np.testing.assert_array_equal(records[[0, 2]], expected[[0, 2]])


def test_all_instruction_sets_agree_to_the_bit() -> None:
    x = random(500)
    expected = quantised(NAMES[0], x)
    for name in NAMES[1:]:
        found = quantised(name, x)
        np.testing.assert_array_equal(quants(found), quants(expected))
        for each in ("scale", "scaled", "sums"):
            np.testing.assert_array_equal(found[each], expected[each])


@in_each_instruction_set
def test_a_group_does_not_depend_on_its_place_or_on_threads(name: str) -> None:
    x = random(600)
    expected = quantised(name, x)
    np.testing.assert_array_equal(quantised(name, x, threads=3), expected)
    np.testing.assert_array_equal(quantised(name, x[17:301]), expected[17:301])
