"""Kernels run at once, or written down while a thread records; others go on computing."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, jit
from numpy.typing import NDArray

from cullama.cpu.compiled.rows import COPY_ROWS
from cullama.cpu.jit.compiler import address_of
from cullama.cpu.jit.launcher import Launcher
from cullama.cpu.jit.program import Arena, NotRecordableError

TABLE = np.arange(64, dtype=np.float32).reshape(4, 16)
ROWS = np.array([3, 1], np.int32)


@pytest.fixture
def launcher() -> Launcher:
    return Launcher(jit(NAMES[0]))


def copied(launcher: Launcher, rows: NDArray[np.int32] = ROWS) -> NDArray[Any]:
    out = launcher.empty((len(rows), 16))
    out.fill(np.nan)
    launcher.run(COPY_ROWS, 1, table=TABLE, rows=rows, out=out, count=len(rows), columns=16)
    return out


def test_a_kernel_runs_when_it_is_called(launcher: Launcher) -> None:
    np.testing.assert_array_equal(copied(launcher), TABLE[ROWS])


def test_what_is_recorded_runs_when_the_program_does(launcher: Launcher) -> None:
    arena, rows = Arena(1 << 12), ROWS.copy()
    program, result = launcher.record(lambda: copied(launcher, rows), arena)
    assert np.isnan(result).all()
    for wanted in ([0, 0], [1, 2]):
        rows[:] = wanted
        program.run(launcher.thread_pool)
        np.testing.assert_array_equal(result, TABLE[wanted])
    assert not np.shares_memory(copied(launcher), result)  # nothing is recorded any more


def test_arrays_that_are_dropped_make_room_for_the_next(launcher: Launcher) -> None:
    """As in a model's layers: a pass takes little more than its largest two."""
    arena = Arena(1 << 12)
    places: list[int] = []

    def work() -> NDArray[Any]:
        out = copied(launcher)
        for _ in range(20):
            out = copied(launcher)
            places.append(address_of(out))
        return out

    launcher.record(work, arena)
    assert len(set(places)) == 2


def test_other_threads_run_kernels_while_one_records(launcher: Launcher) -> None:
    found: list[NDArray[Any]] = []

    def work() -> NDArray[Any]:
        other = threading.Thread(target=lambda: found.append(copied(launcher)))
        other.start()
        other.join()
        return copied(launcher)

    program, result = launcher.record(work, Arena(1 << 12))
    np.testing.assert_array_equal(found[0], TABLE[ROWS])
    assert np.isnan(result).all()
    program.run(launcher.thread_pool)
    np.testing.assert_array_equal(result, TABLE[ROWS])


def test_what_numpy_does_at_once_is_refused_while_a_thread_records(launcher: Launcher) -> None:
    launcher.refuse_to_record()  # nothing happens: no thread records

    def work() -> NDArray[Any]:
        launcher.refuse_to_record()
        return copied(launcher)

    with pytest.raises(NotRecordableError):
        launcher.record(work, Arena(1 << 12))
    np.testing.assert_array_equal(copied(launcher), TABLE[ROWS])


def test_a_result_that_no_kernel_gave_is_refused(launcher: Launcher) -> None:
    with pytest.raises(NotRecordableError):
        launcher.record(lambda: copied(launcher) * 2, Arena(1 << 12))


def test_an_arena_that_is_too_small_raises_memory_error(launcher: Launcher) -> None:
    with pytest.raises(MemoryError):
        launcher.record(lambda: copied(launcher), Arena(64))
    np.testing.assert_array_equal(copied(launcher), TABLE[ROWS])
