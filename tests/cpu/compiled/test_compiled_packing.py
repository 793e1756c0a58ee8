"""Packing by kernels: the very bytes that numpy's `pack` gives."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_cpu import execute, in_each_instruction_set, jit, thread_pool
from packed_weights import PLAIN, Array, bytes_of_rows

from cullama.cpu.compiled import packing as packing_kernels
from cullama.cpu.compiled.packing import packing
from cullama.cpu.packed import FORMATS, PANEL, Panels, pack_in_numpy


def packed(name: str, format_name: str, rows: Array, threads: int = 1) -> Array:
    """[16 n, …] → panels, in memory that was full of ones."""
    format_ = FORMATS[format_name]
    columns = rows.view(np.uint8).shape[1] // format_.block_bytes * format_.block_columns
    panels = np.full((len(rows) // PANEL, format_.panel_bytes(columns)), 255, np.uint8)
    kernel, chunks, arguments = packing(format_, rows, panels)
    execute(thread_pool(name, threads), jit(name).compile(kernel), chunks, arguments)
    return panels


@in_each_instruction_set
@pytest.mark.parametrize("format_name", FORMATS)
def test_kernels_pack_as_numpy_does(name: str, format_name: str) -> None:
    """Any bytes at all, in one panel or several, of one block or several."""
    draw, format_ = np.random.default_rng(0), FORMATS[format_name]
    for rows in (16, 48):
        for blocks in (
            (1, 2, 5) if format_.block_columns > 1 else (1, 2, 3, 7, 8, 9, 15, 16, 17, 40)
        ):
            raw = draw.integers(0, 256, (rows, blocks * format_.block_bytes), np.uint8)
            whole = raw.view(format_.dtype) if format_name in PLAIN else raw  # type: ignore[union-attr]
            expected = np.empty(
                (rows // PANEL, format_.panel_bytes(blocks * format_.block_columns)), np.uint8
            )
            pack_in_numpy(format_, whole, expected)
            np.testing.assert_array_equal(packed(name, format_name, whole), expected)


@pytest.mark.parametrize("format_name", ["F16", "Q4_K"])
def test_work_is_cut_into_chunks(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two panels here, of which five make three."""
    from compiled_cpu import NAMES

    format_ = FORMATS[format_name]
    monkeypatch.setattr(packing_kernels, "CHUNK", 2 * format_.panel_bytes(256))
    raw = bytes_of_rows(format_name, 5 * PANEL, 256)
    panels = np.empty((5, format_.panel_bytes(256)), np.uint8)
    assert packing(format_, raw, panels)[1] == 3
    for threads in (1, 3):
        np.testing.assert_array_equal(
            packed(NAMES[0], format_name, raw, threads), format_.pack(raw)
        )


@in_each_instruction_set
@pytest.mark.parametrize("format_name", PLAIN)
def test_numbers_of_another_type_or_layout_are_packed_too(name: str, format_name: str) -> None:
    numbers = np.random.default_rng(1).standard_normal((32, 40)).astype(np.float32)
    expected = FORMATS[format_name].pack(numbers)
    format_ = FORMATS[format_name]
    for rows in (numbers, np.asfortranarray(numbers), numbers.astype(np.float64)[:, ::1]):
        panels = np.empty((2, format_.panel_bytes(40)), np.uint8)
        kernel, chunks, arguments = packing(format_, rows, panels)
        execute(thread_pool(name), jit(name).compile(kernel), chunks, arguments)
        np.testing.assert_array_equal(panels, expected)


@in_each_instruction_set
@pytest.mark.parametrize("format_name", ["Q4_0", "BF16"])
def test_panels_filled_by_kernels_equal_those_of_numpy(name: str, format_name: str) -> None:
    """Tiles that sixteen does not divide, and a last panel that is not full."""
    format_, raw = FORMATS[format_name], bytes_of_rows(format_name, 53, 256)

    def pack(format_: object, rows: Array, panels: Array) -> None:
        panels[:] = packed(name, format_name, rows)

    found, expected = (
        Panels(format_, 53, np.full((4, format_.panel_bytes(256)), 255, np.uint8)) for _ in range(2)
    )
    found.fill((raw[start : start + 7] for start in range(0, 53, 7)), pack)
    expected.fill([raw])
    np.testing.assert_array_equal(found.data, expected.data)
