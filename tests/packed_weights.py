"""Weights as files store them, for tests of packed ones: any quants, and the numbers they encode.

The numbers are those of `gguf`, the format's own package.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gguf.quants
import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from cullama.cpu import packed
from cullama.cpu.packed import FORMATS, Grouped, PackedMatrix, Panels, Plain

Array = NDArray[Any]

PLAIN = {name: each for name, each in FORMATS.items() if isinstance(each, Plain)}
GROUPED = [name for name, each in FORMATS.items() if isinstance(each, Grouped)]

# Where the float16s of a block begin: its scale, and its minimum where there is one.
HALVES = {name: [0] for name in GROUPED} | {"Q6_K": [208]}
HALVES |= {name: [0, 2] for name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")}

# Zeros of both signs, both ends of the subnormal and the normal numbers, infinities and NaN.
EXTREME_HALVES = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)


def bytes_of_rows(name: str, rows: int, columns: int, seed: int = 0, size: float = 1.0) -> Array:
    """Return rows as in a file: random quants, with scales that make numbers of about `size`.

    [rows, columns] of a plain format, [rows, bytes of a row] of others.
    """
    draw, format_ = np.random.default_rng(seed), FORMATS[name]
    if isinstance(format_, Plain):
        return (draw.standard_normal((rows, columns)) * size).astype(format_.dtype)
    blocks = draw.integers(
        0, 256, (rows * columns // format_.block_columns, format_.block_bytes), np.uint8
    )
    for start in HALVES[name]:
        scales = draw.standard_normal(len(blocks)) * size / _size_of_quants(name)
        blocks[:, start : start + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


@cache
def _size_of_quants(name: str) -> float:
    """Return the standard deviation of numbers whose scales are 1."""
    shape = 1000, FORMATS[name].block_bytes
    blocks = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for start in HALVES[name]:
        blocks[:, start : start + 2] = np.array([1], "<f2").view(np.uint8)
    return float(meaning(name, blocks).std())


def meaning(name: str, rows: Array) -> NDArray[np.float32]:
    """Return the numbers that the bytes encode, by the package gguf."""
    raw = np.ascontiguousarray(rows).view(np.uint8)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, GGMLQuantizationType[name]).astype(np.float32)


def panels_of(name: str, rows: Array, columns: int, tiles: list[Array] | None = None) -> Panels:
    format_ = FORMATS[name]
    size = -(-len(rows) // packed.PANEL), format_.panel_bytes(columns)
    panels = Panels(format_, len(rows), np.full(size, 255, np.uint8))
    panels.fill([rows] if tiles is None else tiles)
    return panels


def matrix_of(*names: str, rows: int = 21, columns: int = 256) -> tuple[PackedMatrix, Array]:
    """Return a matrix of several formats, and its numbers: [O, I]."""
    raws = [bytes_of_rows(name, rows + i, columns, seed=i) for i, name in enumerate(names)]
    parts = [panels_of(name, raw, columns) for name, raw in zip(names, raws, strict=True)]
    numbers = [meaning(name, raw) for name, raw in zip(names, raws, strict=True)]
    return PackedMatrix(tuple(parts), columns), np.concatenate(numbers)


def assert_same_bits(found: Array, expected: Array) -> None:
    """Assert equal bits; all NaNs count as equal."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    same = found.view(np.uint32) == expected.view(np.uint32)
    assert (same | np.isnan(found) & np.isnan(expected)).all()
