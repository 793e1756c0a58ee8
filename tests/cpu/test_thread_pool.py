from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
from functools import partial

import numpy as np
import pytest

from cullama.cpu.thread_pool import MIN_SHARED_SECONDS, ThreadPool


def test_each_task_runs_once() -> None:
    done: list[int] = []
    thread_pool = ThreadPool(3)
    for count in (0, 1, 2, 3, 10):
        done.clear()
        thread_pool.execute([partial(done.append, i) for i in range(count)])
        assert sorted(done) == list(range(count))


def test_tasks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    ThreadPool(2).execute([meeting.wait, meeting.wait])


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_any_task_is_raised_and_the_pool_stays_usable(bad: int) -> None:
    def fail() -> None:
        raise ZeroDivisionError("mine")

    thread_pool, done = ThreadPool(2), []
    tasks = [lambda: done.append(1), lambda: done.append(2)]
    tasks[bad] = fail
    with pytest.raises(ZeroDivisionError, match="mine"):
        thread_pool.execute(tasks)
    thread_pool.execute([lambda: done.append(3), lambda: done.append(4)])
    assert {3, 4} <= set(done)


def test_an_error_of_the_caller_s_own_task_is_raised_after_the_others_are_done() -> None:
    begun, done = threading.Event(), []

    def fail() -> None:
        assert begun.wait(10)
        raise ZeroDivisionError("mine")

    def slow() -> None:
        begun.set()
        threading.Event().wait(0.05)
        done.append(1)

    with pytest.raises(ZeroDivisionError, match="mine"):
        ThreadPool(2).execute([fail, slow])
    assert done == [1]


def test_tasks_may_call_execute_themselves() -> None:
    thread_pool, done = ThreadPool(2), []

    def outer(name: str) -> None:
        assert len(thread_pool.split(8, 1.0)) == 1
        thread_pool.execute([lambda: done.append(name + "1"), lambda: done.append(name + "2")])

    thread_pool.execute([lambda: outer("a"), lambda: outer("b")])
    assert sorted(done) == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("units", [0, 1, 2, 5, 48, 769])
def test_split_covers_the_work_without_overlap(size: int, units: int) -> None:
    parts = ThreadPool(size).split(units, 1.0)
    assert len(parts) <= size
    covered = [unit for part in parts for unit in range(units)[part]]
    assert covered == list(range(units))


def test_small_work_is_not_split() -> None:
    assert ThreadPool(4).split(100, MIN_SHARED_SECONDS / 2) == [slice(0, 100)]


def test_numpy_s_error_settings_go_with_the_work() -> None:
    huge = np.full(4, 3e38, np.float32)
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("error")
        ThreadPool(2).execute([lambda: huge * huge, lambda: huge * huge])


def test_workers_end_when_their_pool_is_dropped() -> None:
    before = set(threading.enumerate())
    thread_pool = ThreadPool(4)
    thread_pool.execute([lambda: None] * 4)
    workers = set(threading.enumerate()) - before
    assert len(workers) == 3
    del thread_pool
    gc.collect()
    for worker in workers:
        worker.join(timeout=10)
        assert not worker.is_alive()


def test_a_pool_of_one_thread_starts_no_workers() -> None:
    before = set(threading.enumerate())
    ThreadPool(1).execute([lambda: None, lambda: None])
    assert not set(threading.enumerate()) - before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_starts_its_own_workers() -> None:
    program = """
import os, sys
from cullama.cpu.thread_pool import ThreadPool
pool, done = ThreadPool(2), []
pool.execute([lambda: done.append(1), lambda: done.append(2)])
child = os.fork()
pool.execute([lambda: done.append(3), lambda: done.append(4)])
if child == 0:
    os._exit(0 if sorted(done) == [1, 2, 3, 4] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python 3.12 warns of forks while threads run, which is what this is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
