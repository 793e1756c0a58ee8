"""Threads that run kernels together: each chunk runs once, and no worker outlives its pool."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compiled_cpu import NAMES, jit, jit_for_tests
from numpy.typing import NDArray

from cullama.cpu.jit.compiler import Kernel, address_of
from cullama.cpu.jit.kernel_builder import I64, POINTER, KernelBuilder, Value
from cullama.cpu.jit.program import step
from cullama.cpu.jit.thread_pool import ALONE, LOST, KernelThreadPool
from cullama.cpu.thread_pool import Workers

BEST = NAMES[0]

Integers = NDArray[np.int64]


def _count(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    place = a.done + chunk * 8
    builder.store(builder.load(I64, place) + 1, place)


def _work(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    """Long enough that the system may take the core away in the middle of a chunk."""
    total = builder.variable(builder.i64(0))
    with builder.loop(builder.load(I64, a.turns)) as turn:
        total.set((total.get() ^ total.get() >> 7) * 31 + turn)  # no formula for the sum of these
    place = a.done + chunk * 8
    builder.store(builder.load(I64, place) + total.get().equals(0).to(I64, signed=False) + 1, place)


def _work_unevenly(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    """Twenty times as long for the second chunk, which is a worker's if one is awake."""
    turns = builder.load(I64, a.turns) * (chunk * 19 + 1)
    total = builder.variable(builder.i64(0))
    with builder.loop(turns) as turn:
        total.set((total.get() ^ total.get() >> 7) * 31 + turn)
    builder.store(total.get(), a.done + chunk * 8)


def _add_before(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    """Each chunk needs all chunks of the step before."""
    total = builder.variable(builder.i64(0))
    with builder.loop(builder.load(I64, a.count)) as place:
        total.add(builder.load(I64, a.before + place * 8))
    builder.store(total.get(), a.after + chunk * 8)


COUNT = Kernel("count", {"done": POINTER}, _count)
WORK = Kernel("work", {"done": POINTER, "turns": POINTER}, _work)
UNEVEN = Kernel("uneven", {"done": POINTER, "turns": POINTER}, _work_unevenly)
ADD_BEFORE = Kernel("add_before", dict.fromkeys(("before", "after", "count"), POINTER), _add_before)


class Steps:
    """A program, and all that it reads and writes: addresses keep nothing alive."""

    def __init__(self) -> None:
        self._records: list[Integers] = []
        self._arrays: list[Integers] = []

    def add(self, kernel: Kernel, chunks: int, **arrays: Integers) -> Steps:
        self._records.append(step(jit_for_tests(BEST).compile(kernel), chunks, arrays))
        self._arrays += arrays.values()
        return self

    def execute(self, thread_pool: KernelThreadPool, times: int = 1) -> None:
        """All steps so many times in a row, as one program."""
        addresses = [address_of(record) for record in self._records]
        thread_pool.execute(np.array(addresses * times, np.int64))


@pytest.fixture(params=[1, 2, 3, 5])
def thread_pool(request: pytest.FixtureRequest) -> KernelThreadPool:
    return KernelThreadPool(jit(BEST), request.param)


def wait_for(condition: Callable[[], bool]) -> bool:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


# --- every chunk once ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 7, 64, 1000, 10_000])
def test_every_chunk_is_done_once(thread_pool: KernelThreadPool, chunks: int) -> None:
    done = np.zeros(chunks + 1, np.int64)
    program = Steps().add(COUNT, chunks, done=done)
    for _ in range(20):
        program.execute(thread_pool)
    assert (done[:-1] == 20).all()
    assert done[-1] == 0


def test_thousands_of_steps_in_a_row(thread_pool: KernelThreadPool) -> None:
    """Also with steps of one chunk in between, which are not shared."""
    done, alone = np.zeros(48, np.int64), np.zeros(1, np.int64)
    Steps().add(COUNT, 48, done=done).add(COUNT, 1, done=alone).execute(thread_pool, 1500)
    assert (done == 1500).all()
    assert alone[0] == 1500


def test_thousands_of_programs_in_a_row(thread_pool: KernelThreadPool) -> None:
    done = np.zeros(5, np.int64)
    program = Steps().add(COUNT, 5, done=done)
    for _ in range(3000):
        program.execute(thread_pool)
    assert (done == 3000).all()


def test_a_step_begins_when_the_one_before_is_over(thread_pool: KernelThreadPool) -> None:
    """Sums of sums: one chunk that came too early would spoil all that follow."""
    sizes = [9, 4, 17, 1, 8] * 20
    rows = [np.ones(3, np.int64), *(np.zeros(size, np.int64) for size in sizes)]
    program = Steps()
    for before, after in pairwise(rows):
        count = np.array([min(len(before), 2)], np.int64)  # or the sums would grow too large
        program.add(ADD_BEFORE, len(after), before=before, after=after, count=count)
    for _ in range(10):
        for row in rows[1:]:
            row.fill(-1)
        program.execute(thread_pool)
        expected = 1
        for before, after in pairwise(rows):
            expected = expected * min(len(before), 2) % 2**64
            assert (after.view(np.uint64) == expected).all()


def test_workers_that_sleep_wake_up(thread_pool: KernelThreadPool) -> None:
    done = np.zeros(64, np.int64)
    program = Steps().add(COUNT, 64, done=done)
    for times in range(1, 15):
        time.sleep(0.002)  # workers sleep after about 50 µs
        program.execute(thread_pool)
        assert (done == times).all()


def test_work_is_shared() -> None:
    """Two threads get there before one would, or take turns: either way both have a part."""
    thread_pool, threads = KernelThreadPool(jit(BEST), 2), set()
    done, turns = np.zeros(400, np.int64), np.array([20_000], np.int64)
    before = set(threading.enumerate())
    Steps().add(WORK, 400, done=done, turns=turns).execute(thread_pool)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 1
    assert (done == 1).all()


# --- beside others -------------------------------------------------------------------------------


def all_at_once(*tasks: Callable[[], None]) -> None:
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()


def executed_at_once(*pools: KernelThreadPool) -> list[Integers]:
    """What each of them did in a thread of its own: how often each of forty chunks."""
    counts = [np.zeros(40, np.int64) for _ in pools]
    turns = np.array([3000], np.int64)  # some microseconds
    programs = [Steps().add(WORK, 40, done=done, turns=turns) for done in counts]

    def execute(thread_pool: KernelThreadPool, program: Steps) -> None:
        for _ in range(40):
            program.execute(thread_pool, 10)

    all_at_once(*(partial(execute, *each) for each in zip(pools, programs, strict=True)))
    return counts


def test_two_pools_work_at_once() -> None:
    counts = executed_at_once(KernelThreadPool(jit(BEST), 2), KernelThreadPool(jit(BEST), 2))
    assert all((done == 400).all() for done in counts)


def test_two_threads_may_share_a_pool() -> None:
    thread_pool = KernelThreadPool(jit(BEST), 2)
    assert all((done == 400).all() for done in executed_at_once(thread_pool, thread_pool))


class MeetingLock:
    """The first thread to hold it waits until another thread holds another such lock."""

    def __init__(self, both_are_here: threading.Barrier) -> None:
        self._lock, self._both_are_here = threading.Lock(), both_are_here
        self._is_new = True

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._is_new:
            self._is_new = False
            self._both_are_here.wait(timeout=60)

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def test_two_threads_may_be_the_first_to_use_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find no workers and start some; neither may use the other's."""
    both_are_here, start = threading.Barrier(2), Workers._start

    def start_at_once(workers: Workers[Any]) -> Any:
        both_are_here.wait(timeout=60)
        started = start(workers)
        started.channel.lock = MeetingLock(both_are_here)
        return started

    monkeypatch.setattr(Workers, "_start", start_at_once)
    thread_pool = KernelThreadPool(jit(BEST), 2)
    assert all((done == 400).all() for done in executed_at_once(thread_pool, thread_pool))


def test_python_s_lock_is_released_while_kernels_run() -> None:
    """A server answers while the model computes."""
    thread_pool, seen = KernelThreadPool(jit(BEST), 1), 0
    done, turns = np.zeros(1, np.int64), np.array([3_000_000], np.int64)
    program = Steps().add(WORK, 1, done=done, turns=turns)
    player = threading.Thread(target=program.execute, args=[thread_pool, 30])
    player.start()
    while player.is_alive():
        seen += 1
    assert seen > 100


def test_busy_neighbours_change_nothing_but_the_time(thread_pool: KernelThreadPool) -> None:
    command = "while True: sum(range(10000))"
    neighbours = [subprocess.Popen([sys.executable, "-c", command]) for _ in range(2)]
    try:
        done, turns = np.zeros(40, np.int64), np.array([2000], np.int64)
        program = Steps().add(WORK, 40, done=done, turns=turns)
        for _ in range(10):
            program.execute(thread_pool, 20)
        assert (done == 200).all()
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def lost_and_alone(thread_pool: KernelThreadPool, times: int) -> tuple[int, int]:
    """What a pool notes where its worker has the larger share so many times."""
    done, turns = np.zeros(2, np.int64), np.array([200_000], np.int64)
    program = Steps().add(COUNT, 2, done=done).add(UNEVEN, 2, done=done, turns=turns)
    program.execute(thread_pool, times)
    shared = thread_pool._workers.channel().shared
    return shared[LOST // 8], shared[ALONE // 8]


def test_the_caller_runs_alone_where_a_worker_is_always_late() -> None:
    thread_pool = KernelThreadPool(jit(BEST), 2)
    assert wait_for(lambda: lost_and_alone(thread_pool, 3)[1] > 0)


def test_a_worker_that_is_late_once_is_forgiven() -> None:
    """Of the pools tried, one has a worker that was awake in time to be late."""
    found: list[tuple[int, int]] = []

    def was_late() -> bool:
        found.append(lost_and_alone(KernelThreadPool(jit(BEST), 2), 1))
        return any(lost > 0 and alone == 0 for lost, alone in found)

    assert wait_for(was_late)


# --- starting and stopping -----------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0, 0.05], ids=["awake", "asleep"])
def test_workers_start_with_the_first_work_and_end_with_their_pool(pause: float) -> None:
    gc.collect()
    before = set(threading.enumerate())
    thread_pool = KernelThreadPool(jit(BEST), 4)
    assert set(threading.enumerate()) == before
    done = np.zeros(9, np.int64)
    program = Steps().add(COUNT, 9, done=done)
    for _ in range(3):
        program.execute(thread_pool)
    workers = set(threading.enumerate()) - before
    assert len(workers) == 3
    assert all(worker.daemon for worker in workers)  # none holds up the end of the process
    time.sleep(pause)
    del thread_pool
    assert wait_for(lambda: not any(worker.is_alive() for worker in workers))


def test_a_pool_of_one_thread_starts_no_workers() -> None:
    before = threading.active_count()
    thread_pool, done = KernelThreadPool(jit(BEST), 1), np.zeros(9, np.int64)
    Steps().add(COUNT, 9, done=done).execute(thread_pool)
    assert threading.active_count() == before
    assert (done == 1).all()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list files")
def test_pools_that_were_dropped_leave_no_files_open() -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = files()
    done = np.zeros(9, np.int64)
    program = Steps().add(COUNT, 9, done=done)
    for _ in range(30):
        program.execute(KernelThreadPool(jit(BEST), 3))
    gc.collect()
    assert wait_for(lambda: files() <= before + 4)
    assert (done == 30).all()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list files")
def test_a_pool_of_one_thread_opens_no_files() -> None:
    thread_pool, done = KernelThreadPool(jit(BEST), 1), np.zeros(9, np.int64)
    before = os.listdir("/proc/self/fd")
    Steps().add(COUNT, 9, done=done).execute(thread_pool)
    assert os.listdir("/proc/self/fd") == before


FORK = """
import os, sys, threading
from pathlib import Path
import numpy as np
from cullama.cpu.compiled.rows import COPY_ROWS
from cullama.cpu.jit.compiler import JIT, address_of
from cullama.cpu.jit.instruction_sets import choose_instruction_set
from cullama.cpu.jit.program import step
from cullama.cpu.jit.thread_pool import KernelThreadPool

jit = JIT(choose_instruction_set(""), Path(sys.argv[1]))
thread_pool = KernelThreadPool(jit, 3)
table = np.arange(640, dtype=np.float32).reshape(40, 16)
rows = np.arange(39, -1, -1, dtype=np.int32)

def works(times):
    for _ in range(times):
        out = np.full((40, 16), np.nan, np.float32)
        arguments = dict(table=table, rows=rows, out=out, count=40, columns=16)
        record = step(jit.compile(COPY_ROWS), 10, arguments)
        thread_pool.execute(np.array([address_of(record)], np.int64))
        if (out != table[::-1]).any():
            return False
    return True

assert works(5)
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if works(50) and threading.active_count() == 3 else 1)
    children.append(child)
assert works(50)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert works(5)
assert codes == [0, 0], codes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_starts_its_own_workers(tmp_path: Path) -> None:
    # Python 3.12 warns of forks while threads run, which is what this is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path)]
    result = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_process_ends_while_workers_sleep_or_spin(tmp_path: Path) -> None:
    program = FORK[: FORK.index("children = []")]
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
