"""Packed weights hold exactly what files do: numpy's side alone, no compiler anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gguf.quants
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from packed_weights import (
    EXTREME_HALVES,
    GROUPED,
    HALVES,
    PLAIN,
    Array,
    assert_same_bits,
    bytes_of_rows,
    matrix_of,
    meaning,
    panels_of,
)

from cullama.cpu import packed
from cullama.cpu.packed import FORMATS, Format, Panels
from cullama.files.tensor import StoredTensor

ROWS = [1, 15, 16, 17, 53]


def unpacked(panels: Panels) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return panels.unpack(0, len(panels.data))


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", FORMATS)
def test_unpacked_panels_hold_the_numbers_of_the_file(name: str, rows: int) -> None:
    raw = bytes_of_rows(name, rows, 768)
    assert_same_bits(unpacked(panels_of(name, raw, 768)), meaning(name, raw))


@pytest.mark.parametrize("code", [0x00, 0x0F, 0xF0, 0xFF, 0x80, 0x7F])
@pytest.mark.parametrize("name", GROUPED)
def test_extreme_quants_and_scales_keep_their_values(name: str, code: int) -> None:
    """Every strange scale with every strange minimum, and codes all alike."""
    format_ = FORMATS[name]
    pairs = [(scale, minimum) for scale in EXTREME_HALVES for minimum in EXTREME_HALVES]
    rows = np.full((len(pairs), format_.block_bytes), code, np.uint8)
    for place, start in enumerate(HALVES[name]):
        halves = np.array([pair[place] for pair in pairs], "<u2")
        rows[:, start : start + 2] = halves[:, None].view(np.uint8)
    assert_same_bits(unpacked(panels_of(name, rows, format_.block_columns)), meaning(name, rows))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_keep_every_bit(name: str) -> None:
    """All 65,536 of 16 bits; of float32, those with the same upper half."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    kind = PLAIN[name].dtype
    numbers = (
        (bits.astype(np.uint32) << 16 | 1).view(kind) if kind.itemsize == 4 else bits.view(kind)
    )
    rows = numbers.reshape(256, 256)
    with np.errstate(invalid="ignore"):
        assert_same_bits(unpacked(panels_of(name, rows, 256)), rows.astype(np.float32))


@pytest.mark.parametrize("name", PLAIN)
def test_wider_numbers_are_rounded_to_the_nearest(name: str) -> None:
    """Also those in the middle between two: to the even one."""
    kind = PLAIN[name].dtype
    ends = np.arange(0x3C00, 0x3D01, dtype=np.uint16)
    neighbours = (ends.view(kind) if kind.itemsize == 2 else ends.view(np.float16)).astype(
        np.float32
    )
    middles = (neighbours[1:] + neighbours[:-1]) / 2
    numbers = np.concatenate(
        [middles, -middles, np.nextafter(middles, 9), np.nextafter(middles, 0)]
    )
    rows = numbers.reshape(16, -1)
    found = unpacked(panels_of(name, rows, rows.shape[1]))
    assert_same_bits(found, rows.astype(kind).astype(np.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_a_panel_is_as_large_as_stated_and_little_larger_than_the_file(name: str) -> None:
    format_ = FORMATS[name]
    raw = bytes_of_rows(name, 32, 512)
    panels = format_.pack(raw)
    assert panels.shape == (2, format_.panel_bytes(512))
    assert panels.nbytes <= raw.nbytes * 1.04  # steps of six bits become bytes


def test_types_without_a_format_become_bf16() -> None:
    assert packed.format_of("Q4_K") is FORMATS["Q4_K"]
    assert packed.format_of("F16") is FORMATS["F16"]
    assert packed.format_of("IQ2_XS") is FORMATS["BF16"]


# --- filling -------------------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(FORMATS)),
    cuts=st.lists(st.integers(0, 70), max_size=8),
    rows=st.integers(1, 70),
)
def test_panels_are_filled_from_tiles_of_any_size(name: str, cuts: list[int], rows: int) -> None:
    """Empty ones too."""
    raw = bytes_of_rows(name, rows, 256, seed=rows)
    edges = sorted([0, *(min(cut, rows) for cut in cuts), rows])
    tiles = [raw[start:end] for start, end in pairwise(edges)]
    found = panels_of(name, raw, 256, tiles)
    np.testing.assert_array_equal(found.data, panels_of(name, raw, 256).data)
    assert_same_bits(unpacked(found), meaning(name, raw))


@pytest.mark.parametrize("name", FORMATS)
def test_a_last_panel_is_completed_with_zeros(name: str) -> None:
    """They are multiplied like others: leftovers in memory could be slow to multiply, or NaN."""
    raw = bytes_of_rows(name, 17, 256)
    whole = np.concatenate([raw, np.zeros((15, raw.shape[1]), raw.dtype)])
    found = panels_of(name, raw, 256)
    np.testing.assert_array_equal(found.data, panels_of(name, whole, 256).data)


# --- from files ----------------------------------------------------------------------------------


def stored(name: str, rows: Array, columns: int, rows_a_tile: int = 7) -> StoredTensor:
    """A quantised tensor as a GGUF file hands it out, whose numbers must not be asked for."""

    def tiles() -> Iterator[Array]:
        raise AssertionError("dequantised, although it is kept as it is")

    def blocks() -> Iterator[Array]:
        for start in range(0, len(rows), rows_a_tile):
            yield rows[start : start + rows_a_tile]

    return StoredTensor("a weight", (len(rows), columns), name, tiles, blocks)


@pytest.mark.parametrize("name", GROUPED)
def test_blocks_of_the_same_type_are_not_converted(name: str) -> None:
    raw = bytes_of_rows(name, 53, 512)
    tiles = list(packed.tiles_of(stored(name, raw, 512), FORMATS[name]))
    assert_same_bits(unpacked(panels_of(name, raw, 512, tiles)), meaning(name, raw))


# gguf quantises to these; it has no code for the nested ones.
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("kept_as", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_are_quantised_for_a_grouped_format(name: str, kept_as: Any) -> None:
    numbers = np.random.default_rng(1).standard_normal((35, 96)).astype(kept_as)
    tensor = StoredTensor(
        "a weight", numbers.shape, str(numbers.dtype), lambda: iter([numbers[:9], numbers[9:]])
    )
    tiles = list(packed.tiles_of(tensor, FORMATS[name]))
    found = unpacked(panels_of(name, np.concatenate(tiles), 96, tiles))
    wide = numbers.astype(np.float32)
    expected = gguf.quants.quantize(wide, GGMLQuantizationType[name])
    assert_same_bits(found, meaning(name, expected))
    largest = np.abs(wide).reshape(35, 3, 32).max(2, keepdims=True)
    apart = np.abs(found - wide).reshape(35, 3, 32)
    assert (apart <= largest / {"8": 127, "5": 15, "4": 7}[name[1]]).all()


@pytest.mark.parametrize("name", PLAIN)
def test_plain_formats_read_tiles_as_numbers(name: str) -> None:
    numbers = np.random.default_rng(2).standard_normal((20, 24)).astype(np.float32)
    tensor = StoredTensor("a weight", (20, 24), "F32", lambda: iter([numbers[:3], numbers[3:]]))
    tiles = list(packed.tiles_of(tensor, FORMATS[name]))
    found = unpacked(panels_of(name, numbers, 24, tiles))
    assert_same_bits(found, numbers.astype(PLAIN[name].dtype).astype(np.float32))


# --- matrices ------------------------------------------------------------------------------------


MIXTURES = [("Q4_0",), ("Q8_0", "F16"), ("Q4_K", "Q6_K"), ("F32", "Q5_1", "BF16")]


@pytest.mark.parametrize("names", MIXTURES, ids="+".join)
def test_the_rows_of_parts_follow_each_other(names: tuple[str, ...]) -> None:
    matrix, numbers = matrix_of(*names)
    assert matrix.rows == len(numbers)
    assert matrix.nbytes == sum(part.data.nbytes for part in matrix.parts)
    assert_same_bits(np.concatenate(list(matrix.pieces())), numbers)


@pytest.mark.parametrize("names", MIXTURES, ids="+".join)
def test_rows_at_returns_any_rows_in_any_order(names: tuple[str, ...]) -> None:
    matrix, numbers = matrix_of(*names)
    last = len(numbers) - 1
    wanted = [0, last, 20, 21, 22, 15, 16, 16, last, 0, *range(0, last, 5)]
    wanted = [row for row in wanted if row <= last]
    for rows in (wanted, wanted[::-1], wanted[:1], []):
        found = matrix.rows_at(np.array(rows, np.int32))
        assert_same_bits(found, numbers[np.array(rows, np.intp)])


@pytest.mark.parametrize("names", MIXTURES, ids="+".join)
def test_a_product_equals_that_of_the_file_s_numbers(names: tuple[str, ...]) -> None:
    matrix, numbers = matrix_of(*names)
    x = np.random.default_rng(3).standard_normal((5, matrix.columns), np.float32)
    expected = x.astype(np.float64) @ numbers.astype(np.float64).T
    room = np.abs(x) @ np.abs(numbers).T * 1e-5
    assert (np.abs(matrix.product(x) - expected) <= room).all()


@pytest.mark.parametrize("at_once", [1, 16 * 256, 3 * 16 * 256, 1 << 20])
def test_pieces_cover_all_rows_at_any_size(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_UNPACKED", at_once)
    matrix, numbers = matrix_of("Q8_0", "Q4_1", rows=100)
    pieces = list(matrix.pieces())
    assert_same_bits(np.concatenate(pieces), numbers)
    assert max(piece.size for piece in pieces) <= max(at_once, 16 * 256)


def test_every_format_is_covered() -> None:
    assert {*PLAIN, *GROUPED} == set(FORMATS)
    assert all(isinstance(each, Format) for each in FORMATS.values())
