from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from cullama.cpu.crew import WORTH_SHARING, Crew


def test_all_tasks_are_done_once() -> None:
    done: list[int] = []
    crew = Crew(3)
    for count in (0, 1, 2, 3, 10):
        done.clear()
        crew.run([lambda i=i: done.append(i) for i in range(count)])
        assert sorted(done) == list(range(count))


def test_tasks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    Crew(2).run([meeting.wait, meeting.wait])


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_any_task_is_raised_and_the_crew_goes_on(bad: int) -> None:
    def fail() -> None:
        raise ZeroDivisionError("mine")

    crew, done = Crew(2), []
    tasks = [lambda: done.append(1), lambda: done.append(2)]
    tasks[bad] = fail
    with pytest.raises(ZeroDivisionError, match="mine"):
        crew.run(tasks)
    crew.run([lambda: done.append(3), lambda: done.append(4)])
    assert {3, 4} <= set(done)


def test_an_error_of_the_caller_s_own_task_waits_for_the_others() -> None:
    begun, done = threading.Event(), []

    def fail() -> None:
        assert begun.wait(10)
        raise ZeroDivisionError("mine")

    def slow() -> None:
        begun.set()
        threading.Event().wait(0.05)
        done.append(1)

    with pytest.raises(ZeroDivisionError, match="mine"):
        Crew(2).run([fail, slow])
    assert done == [1]


def test_a_task_may_ask_for_help_itself() -> None:
    crew, done = Crew(2), []

    def outer(name: str) -> None:
        assert len(crew.parts(8, 1.0)) == 1
        crew.run([lambda: done.append(name + "1"), lambda: done.append(name + "2")])

    crew.run([lambda: outer("a"), lambda: outer("b")])
    assert sorted(done) == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("units", [0, 1, 2, 5, 48, 769])
def test_parts_cover_the_work_without_overlap(size: int, units: int) -> None:
    parts = Crew(size).parts(units, 1.0)
    assert len(parts) <= size
    covered = [unit for part in parts for unit in range(units)[part]]
    assert covered == list(range(units))


def test_small_work_stays_in_one_piece() -> None:
    assert Crew(4).parts(100, WORTH_SHARING / 2) == [slice(0, 100)]


def test_numpy_s_error_settings_go_with_the_work() -> None:
    huge = np.full(4, 3e38, np.float32)
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("error")
        Crew(2).run([lambda: huge * huge, lambda: huge * huge])


def test_helpers_leave_with_their_crew() -> None:
    before = set(threading.enumerate())
    crew = Crew(4)
    crew.run([lambda: None] * 4)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 3
    del crew
    gc.collect()
    for helper in helpers:
        helper.join(timeout=10)
        assert not helper.is_alive()


def test_a_crew_of_one_hires_nobody() -> None:
    before = set(threading.enumerate())
    Crew(1).run([lambda: None, lambda: None])
    assert not set(threading.enumerate()) - before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_hires_its_own_helpers() -> None:
    program = """
import os, sys
from cullama.cpu.crew import Crew
crew, done = Crew(2), []
crew.run([lambda: done.append(1), lambda: done.append(2)])
child = os.fork()
crew.run([lambda: done.append(3), lambda: done.append(4)])
if child == 0:
    os._exit(0 if sorted(done) == [1, 2, 3, 4] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python 3.12 warns of forks while threads run, which is what this is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
