"""How kernels read weights: row by row, the very numbers that numpy's `unpack` says they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from compiled_cpu import computed, in_each_instruction_set, operators
from packed_weights import (
    EXTREME_HALVES,
    GROUPED,
    HALVES,
    Array,
    assert_same_bits,
    bytes_of_rows,
    matrix_of,
    panels_of,
)

from cullama.cpu.compiled.unpacking import load_floats, offset_of
from cullama.cpu.jit.kernel_builder import KernelBuilder
from cullama.cpu.packed import FORMATS, Grouped, PackedMatrix, Plain


def gathered(name: str, matrix: PackedMatrix, rows: Array) -> Array:
    return operators(name).embed(matrix, rows.astype(np.int32))


# --- plain numbers -------------------------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_every_number_of_sixteen_bits_becomes_the_right_float(
    name: str, kind: str, lanes: int
) -> None:
    """All 65,536, by the processor's own instruction or with shifts; NaN stays NaN."""
    format_ = FORMATS[kind]
    assert isinstance(format_, Plain)
    bits = np.arange(1 << 16, dtype=np.uint16)
    stored = bits.view(format_.dtype) if kind != "F32" else bits.view(np.float16).astype("f4")
    out, size = np.full(1 << 16, -77, np.float32), format_.dtype.itemsize

    def body(builder: KernelBuilder, arrays: SimpleNamespace) -> None:
        with builder.loop(1 << 16, 0, lanes) as place:
            builder.store(
                load_floats(builder, format_, arrays.x + place * size, lanes),
                arrays.out + place * 4,
            )

    computed(name, f"numbers_{kind}_{lanes}", body, x=stored, out=out)
    with np.errstate(invalid="ignore"):
        assert_same_bits(out, stored.astype(np.float32))


# --- rows ----------------------------------------------------------------------------------------


@in_each_instruction_set
@pytest.mark.parametrize("format_name", FORMATS)
def test_rows_are_those_of_the_file(name: str, format_name: str) -> None:
    """The first and the last, both ends of a panel, twice the same; and in a part below another."""
    matrix, expected = matrix_of(format_name, "BF16", format_name, rows=17, columns=512)
    rows = np.array([0, len(expected) - 1, 15, 16, 17, 16, 34, 35, 36, 40, 0, 51])
    assert_same_bits(gathered(name, matrix, rows), expected[rows])


@in_each_instruction_set
@pytest.mark.parametrize("format_name", GROUPED)
def test_extreme_scales_give_the_same_numbers_as_in_numpy(name: str, format_name: str) -> None:
    format_ = FORMATS[format_name]
    pairs = [(scale, minimum) for scale in EXTREME_HALVES for minimum in EXTREME_HALVES]
    blocks = bytes_of_rows(format_name, len(pairs), format_.block_columns)
    for place, start in enumerate(HALVES[format_name]):
        halves = np.array([pair[place] for pair in pairs], "<u2")
        blocks[:, start : start + 2] = halves[:, None].view(np.uint8)
    panels = panels_of(format_name, blocks, format_.block_columns)
    found = gathered(name, PackedMatrix((panels,), format_.block_columns), np.arange(len(pairs)))
    with np.errstate(all="ignore"):
        assert_same_bits(found, panels.unpack(0, len(panels.data)))


@in_each_instruction_set
def test_no_rows_are_no_rows(name: str) -> None:
    matrix, _ = matrix_of("Q4_0", "F16")
    assert gathered(name, matrix, np.array([])).shape == (0, 256)


@pytest.mark.parametrize("format_name", GROUPED)
def test_field_offsets_are_those_of_numpy(format_name: str) -> None:
    format_ = FORMATS[format_name]
    assert isinstance(format_, Grouped)
    places = [offset_of(format_, field) for field in format_.record.names or ()]
    assert places[0] == 0
    assert places == sorted(places)
    inside = [offset_of(format_, field) for field in format_.group.names or ()]
    assert inside[0] == 0
    assert inside == sorted(inside)
