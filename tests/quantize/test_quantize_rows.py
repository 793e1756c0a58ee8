"""Rows encoded as blocks of a type: error, order, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from cullama.errors import ModelFileError
from cullama.files.tensor import HostArray, StoredTensor
from cullama.quantize.plan import Target
from cullama.quantize.rows import MAX_FLOAT16, encoded_rows

ROWS, COLUMNS = 24, 96
SOURCE = Path("source")


def numbers(scale: float = 1.0) -> HostArray:
    return (scale * np.random.default_rng(5).standard_normal((ROWS, COLUMNS))).astype(np.float32)


def stored(values: HostArray, rows_in_tile: int = ROWS) -> StoredTensor:
    def tiles() -> Iterator[HostArray]:
        for first in range(0, len(values), rows_in_tile):
            yield values[first : first + rows_in_tile]

    return StoredTensor("some.weight", values.shape, "F32", tiles)


def read_back(values: HostArray, dtype: str, rows_in_tile: int = ROWS) -> HostArray:
    target = Target(stored(values, rows_in_tile), "some", dtype)
    rows = encoded_rows(target, SOURCE, lambda elements: None)
    return dequantize(rows, GGMLQuantizationType[dtype]).reshape(values.shape)


# Numbers that a block can tell apart, over the range that it has to cover.
STEPS = {"Q8_0": 254, "Q4_0": 16, "Q4_1": 15}


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize("scale", [0.02, 1.0, 300.0])
def test_a_number_comes_back_within_half_a_step(dtype: str, scale: float) -> None:
    values = numbers(scale)
    blocks = values.reshape(-1, 32)
    largest, span = np.abs(blocks).max(axis=1), np.ptp(blocks, axis=1)
    step = (span if dtype == "Q4_1" else 2 * largest) / STEPS[dtype]
    error = np.abs(read_back(values, dtype) - values).reshape(-1, 32)
    # The scale is a float16, and the step as much wider: at most 2^-11 of what the number is.
    bound = step / 2 + largest * 2**-10
    if dtype == "Q4_0":  # has −8 and no +8: what is as large as the largest, but for its sign
        sign = np.sign(np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1))
        is_beyond = -sign * blocks > (7.5 * step)[:, None]
        assert is_beyond.any()
        error[is_beyond] -= np.broadcast_to(step[:, None] / 2, error.shape)[is_beyond]
    assert (error <= bound[:, None]).all()
    assert error.max() > 0.4 * step.max()  # it is as coarse as that


def test_plain_types_are_rounded_to_the_nearest() -> None:
    values = numbers()
    assert read_back(values, "F32").tolist() == values.tolist()
    assert read_back(values, "F16").tolist() == values.astype(np.float16).tolist()
    assert read_back(values, "BF16").tolist() == values.astype(ml_dtypes.bfloat16).tolist()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0"])
def test_reading_tiles_leaves_no_file_open(dtype: str) -> None:
    whole, pieces = (read_back(numbers(), dtype, rows) for rows in (ROWS, 5))
    assert whole.tolist() == pieces.tolist()


def test_progress_counts_elements() -> None:
    done: list[int] = []
    encoded_rows(Target(stored(numbers(), 5), "some", "Q8_0"), SOURCE, done.append)
    assert done == [5 * COLUMNS] * 4 + [4 * COLUMNS]


def test_rotated_pairs_are_interleaved() -> None:
    """Of a head of eight rows, the first and the fifth are the first pair."""
    values = np.repeat(np.arange(ROWS, dtype=np.float32)[:, None], COLUMNS, axis=1)
    target = Target(stored(values, 5), "some", "F32", head_dim=8)
    rows = encoded_rows(target, SOURCE, lambda elements: None).view(np.float32)
    assert rows[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert rows[16:, 0].tolist() == [16, 20, 17, 21, 18, 22, 19, 23]


def test_blocks_of_the_target_type_are_copied() -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (ROWS, 3 * 18), np.uint8)
    source = StoredTensor(
        "some.weight", (ROWS, COLUMNS), "Q4_0", lambda: iter([numbers()]), lambda: iter([blocks])
    )
    same = encoded_rows(Target(source, "some", "Q4_0"), SOURCE, lambda elements: None)
    assert same.tolist() == blocks.tolist()
    other = encoded_rows(Target(source, "some", "Q8_0"), SOURCE, lambda elements: None)
    assert dequantize(other, GGMLQuantizationType.Q8_0) == pytest.approx(numbers(), abs=0.02)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_1", "Q4_0"])
def test_a_block_of_tiny_numbers_becomes_zeros(dtype: str) -> None:
    tiny = np.full((1, 32), 1e-42, np.float32)
    tiny[0, 3] = -1e-42
    assert np.abs(read_back(tiny, dtype)).max() <= 1e-42


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "Q4_0"])
def test_a_number_of_another_type_is_refused(broken: float, dtype: str) -> None:
    values = numbers()
    values[7, 7] = broken
    with pytest.raises(ModelFileError, match=r"source: tensor 'some.weight': holds NaN or inf"):
        read_back(values, dtype, 5)


@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_1", "Q4_0"])
def test_a_number_too_large_for_a_float16_is_refused(dtype: str) -> None:
    values = numbers()
    values[7, 7] = -MAX_FLOAT16
    assert np.isfinite(read_back(values, dtype)).all()
    values[7, 7] = -70000
    with pytest.raises(ModelFileError, match=r"holds 70000, expected at most 65504 .*--type bf16"):
        read_back(values, dtype)
    assert read_back(values, "BF16")[7, 7] == pytest.approx(-70000, rel=1e-2)
