"""Programs that run again and again, and the memory that their arrays share."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, jit, thread_pool
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.cpu.compiled.rows import COPY_ROWS, RMS_NORM
from cullama.cpu.jit.compiler import address_of
from cullama.cpu.jit.program import ALIGNMENT, Arena, Program

BEST = NAMES[0]

# --- the arena -----------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 20))
KINDS = st.sampled_from([np.float32, np.uint8, np.int64])


def place(array: NDArray[Any]) -> tuple[int, int]:
    start = address_of(array)
    return start, start + array.nbytes


@given(st.lists(st.tuples(SHAPES, KINDS, st.integers(0, 5)), max_size=40))
def test_pieces_are_aligned_and_never_overlap_while_they_live(wishes: list[Any]) -> None:
    """Whatever is dropped in between, in whatever order."""
    arena = Arena(1 << 16)
    whole = arena.empty((1 << 16,), np.uint8)
    begin, end = place(whole)
    del whole
    live: list[NDArray[Any]] = []
    for shape, kind, dropped in wishes:
        if live and dropped:
            del live[dropped % len(live)]
        array = arena.empty(shape, kind)
        assert (array.shape, array.dtype) == (shape, kind)
        assert address_of(array) % ALIGNMENT == 0 or array.size == 0
        assert array.size == 0 or (begin <= place(array)[0] and place(array)[1] <= end)
        array[...] = len(live)
        live.append(array)
        spans = sorted(place(each) for each in live if each.size)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        del array
    live.clear()
    assert place(arena.empty((1 << 16,), np.uint8)) == (begin, end)  # all of it is back


def test_the_lowest_free_range_is_taken_first() -> None:
    arena = Arena(1 << 12)
    first, second, third = (arena.empty((64,), np.float32) for _ in range(3))
    low, middle = address_of(first), address_of(second)
    assert low < middle < address_of(third)
    del first
    assert address_of(again := arena.empty((10,), np.float32)) == low
    del second
    assert address_of(arena.empty((40,), np.float32)) == low + ALIGNMENT
    assert address_of(again) == low


def test_a_view_keeps_the_memory_of_its_array() -> None:
    arena = Arena(1 << 12)
    rows = arena.empty((4, 16), np.float32)
    row = rows[2].view(np.int32)
    start = address_of(rows)
    del rows
    assert address_of(arena.empty((16,), np.float32)) != start
    del row
    assert address_of(arena.empty((16,), np.float32)) == start


def test_a_full_arena_raises_memory_error() -> None:
    arena = Arena(1 << 10)
    with pytest.raises(MemoryError):
        arena.empty(((1 << 10) + 1,), np.uint8)
    held = arena.empty((1 << 10,), np.uint8)
    with pytest.raises(MemoryError):
        arena.empty((1,), np.uint8)
    held[:] = 1


def test_view_does_not_hold_the_memory() -> None:
    arena = Arena(1 << 10)
    array = arena.empty((3, 4), np.float32)
    array[:] = np.arange(12).reshape(3, 4)
    seen = arena.view(array)
    np.testing.assert_array_equal(seen, array)
    assert address_of(seen) == address_of(array)
    del array
    gc.collect()
    other = arena.empty((3, 4), np.float32)
    other[:] = 7
    assert (seen == 7).all()


def test_an_arena_lives_as_long_as_its_arrays() -> None:
    array = Arena(1 << 10).empty((16,), np.float32)
    gc.collect()
    array[:] = 5
    assert (array == 5).all()


# --- programs ------------------------------------------------------------------------------------


def copied(program: Program, chunks: Any, **arrays: NDArray[Any]) -> None:
    count, columns = arrays["out"].shape
    arguments: dict[str, Any] = {**arrays, "count": count, "columns": columns}
    program.add(jit(BEST).compile(COPY_ROWS), chunks, arguments)


def test_a_program_reads_changed_inputs_on_each_run() -> None:
    table, rows = np.zeros((5, 16), np.float32), np.array([4, 0, 3], np.int32)
    out = np.full((3, 16), np.nan, np.float32)
    program = Program()
    copied(program, 1, table=table, rows=rows, out=out)
    for turn in range(5):
        table[:] = np.arange(5)[:, None] + turn
        rows[:] = np.roll(rows, 1)
        program.run(thread_pool(BEST))
        np.testing.assert_array_equal(out, table[rows])


def test_steps_follow_each_other() -> None:
    """What the first writes the second reads."""
    x, ones = np.full((6, 32), 5, np.float32), np.ones(32, np.float32)
    rows = np.arange(6, dtype=np.int32)[::-1].copy()
    between, out = np.full((2, 6, 32), np.nan, np.float32)
    program = Program()
    norm = {"x": x, "weight": ones, "out": between, "rows": 6, "columns": 32, "eps": 0.0}
    program.add(jit(BEST).compile(RMS_NORM), 2, norm)
    copied(program, 2, table=between, rows=rows, out=out)
    for threads in (1, 3):
        out[:] = np.nan
        program.run(thread_pool(BEST, threads))
        np.testing.assert_allclose(out, 1, rtol=1e-6)


def test_the_number_of_chunks_may_change_between_runs() -> None:
    """Chunks are four rows here; those beyond the number are left alone."""
    table, rows = np.ones((1, 16), np.float32), np.zeros(20, np.int32)
    chunks, program = np.array([0], np.int64), Program()
    out = np.zeros((20, 16), np.float32)
    copied(program, chunks, table=table, rows=rows, out=out)
    for wanted in (0, 1, 3, 5, 2):
        out[:], chunks[:] = 0, wanted
        program.run(thread_pool(BEST, 3))
        np.testing.assert_array_equal(out[:, 0], np.arange(20) < 4 * wanted)


def test_a_program_keeps_alive_what_its_records_point_to() -> None:
    table, rows = np.ones((1, 16), np.float32), np.zeros(8, np.int32)
    out = np.zeros((8, 16), np.float32)
    program = Program()
    copied(program, np.array([2], np.int64), table=table, rows=rows, out=out)
    gc.collect()
    litter = [np.full(1, -1, np.int64) for _ in range(1000)]  # where the number would have been
    program.run(thread_pool(BEST))
    assert (out == 1).all()
    assert len(litter) == 1000
