"""Kernels with one planted bug each: all are reported, or give wrong results in some order.

Also: what reports say, launches after a failure, and launches from any thread.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from cullama.emulation.kernel import SCHEDULES, EmulatedModule, KernelError, Schedule
from emulation.planted import compiled
from emulation.probe import HEADER

Array = NDArray[Any]
X = np.arange(1, 513, dtype=np.float32)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> EmulatedModule:
    return EmulatedModule(compiled("planted", tmp_path_factory.mktemp("planted")))


@pytest.fixture(scope="session")
def planted_copies(tmp_path_factory: pytest.TempPathFactory) -> EmulatedModule:
    return EmulatedModule(compiled("planted_copies", tmp_path_factory.mktemp("planted")))


def zeros(count: int) -> Array:
    return np.zeros(count, np.float32)


class Reported(NamedTuple):
    """A bug that stops the kernel, and what the report must say."""

    kernel: str
    code: int
    says: str
    block: int = 64
    arguments: Callable[[], list[Any]] = lambda: [zeros(128)]
    shared: int = 0


REPORTED = [
    Reported("divergent_barrier", 719, "divergent barrier"),
    Reported("early_return", 719, "24 threads have returned", 64, lambda: [zeros(64), 40]),
    Reported("lanes_missing", 719, "wait at shfl.sync|but lane|bar.sync"),
    Reported("lane_not_in_mask", 719, "own lane 8 is not in mask 000000ff"),
    Reported("different_masks", 719, "at shfl.sync with mask ffffffff"),
    Reported("static_shared_out_of_bounds", 700, "is in no array", 64, lambda: [zeros(64), 1]),
    Reported("dynamic_shared_out_of_bounds", 700, "dynamic memory has 256 bytes", shared=256),
    Reported("global_out_of_bounds", 700, "illegal address", 64, lambda: [zeros(60), 60]),
    Reported("null_pointer", 700, "illegal address", 64, lambda: [zeros(4), 0]),
    Reported("misaligned", 716, "not a multiple of 16", 2, lambda: [zeros(4), X]),
    Reported("misaligned_shared", 716, "not a multiple of 8", 2, lambda: [zeros(4)]),
    Reported("stack_overflow", 714, "stack overflow", 1),
    Reported("trapped", 719, "trap"),
]  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
@pytest.mark.parametrize("bug", REPORTED, ids=lambda bug: bug.kernel)
def test_a_broken_rule_stops_the_kernel(
    planted: EmulatedModule, bug: Reported, schedule: Schedule
) -> None:
    is_any_lane = bug.kernel == "lane_not_in_mask" and schedule.order != "ascending"
    with pytest.raises(KernelError, match="not in mask" if is_any_lane else bug.says) as caught:
        planted.launch(bug.kernel, 1, bug.block, bug.arguments(), bug.shared, schedule)
    assert caught.value.code == bug.code
    assert f"kernel {bug.kernel}, block (0, 0, 0), thread (" in str(caught.value)


@pytest.mark.parametrize("kernel", ["endless_loop", "endless_barriers"])
def test_the_watchdog_ends_endless_blocks(planted: EmulatedModule, kernel: str) -> None:
    with planted.watchdog(100_000), pytest.raises(KernelError, match="does not end") as caught:
        planted.launch(kernel, 1, 32, [zeros(1)])
    assert caught.value.code == 702


class Wrong(NamedTuple):
    """A bug that gives wrong results, in at least one order."""

    kernel: str
    correct: str  # a kernel without the bug, or none
    expected: Array
    inputs: list[Array]
    grid: int = 1
    block: int = 128


PASSES = np.repeat(X[:16].reshape(4, 4).sum(1), 128)
MIRRORED = np.concatenate([X[127::-1], X[255:127:-1]])
WRONG = [
    Wrong("missing_barrier", "correct_barrier", X[127::-1], [X]),
    Wrong("uninitialised_shared", "", np.full(128, 4, np.float32), []),
    Wrong("last_writer_wins", "", np.array([127], np.float32), []),
    Wrong("lost_updates", "", np.array([128], np.float32), []),
    Wrong("block_waits_for_earlier_block", "", np.arange(9, dtype=np.float32), [], 8, 1),
    Wrong("shared_reused_too_early", "correct_reuse", PASSES, [X]),
]
WRONG_COPIES = [
    Wrong("waits_for_too_few_copies", "correct_copies", X[:256], [X], 1, 32),
    Wrong("copies_not_committed", "correct_copies", X[:256], [X], 1, 32),
    Wrong("copies_over_what_is_read", "correct_copies_in_turn", MIRRORED, [X], 1, 32),
]


def is_right(module: EmulatedModule, kernel: str, case: Wrong, schedule: Schedule) -> bool:
    out = np.zeros_like(case.expected)
    module.launch(kernel, case.grid, case.block, [out, *case.inputs], schedule=schedule)
    return np.array_equal(out, case.expected)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.kernel)
def test_a_race_shows_in_some_order(planted: EmulatedModule, case: Wrong) -> None:
    assert not all(is_right(planted, case.kernel, case, schedule) for schedule in SCHEDULES)
    if case.correct:
        assert all(is_right(planted, case.correct, case, schedule) for schedule in SCHEDULES)


@pytest.mark.parametrize("case", WRONG_COPIES, ids=lambda case: case.kernel)
def test_a_copy_at_the_wrong_time_shows_too(planted_copies: EmulatedModule, case: Wrong) -> None:
    test_a_race_shows_in_some_order(planted_copies, case)


def test_a_failure_names_the_line_of_the_source(planted: EmulatedModule) -> None:
    source = Path(__file__).parent / "kernels" / "planted.cu"
    line = 1 + source.read_text().split("\n").index("  row[threadIdx.x + shift] = 1.f;")
    with pytest.raises(KernelError) as caught:
        planted.launch("static_shared_out_of_bounds", 1, 64, [zeros(64), 1])
    if "planted.cu" in str(caught.value):  # NVRTC's release build writes no lines
        assert f"(planted.cu:{line})" in str(caught.value)
    assert "thread (63, 0, 0), PTX line " in str(caught.value)


def test_after_a_failure_the_next_launch_is_right(planted: EmulatedModule) -> None:
    for bug in REPORTED:
        with pytest.raises(KernelError):
            planted.launch(bug.kernel, 1, bug.block, bug.arguments(), bug.shared)
        out = zeros(128)
        planted.launch("correct_barrier", 1, 128, [out, X])
        assert_array_equal(out, X[127::-1])


def test_launches_of_python_threads_are_serialised(planted: EmulatedModule) -> None:
    outs, threads = [zeros(512) for _ in range(8)], []
    for out in outs:
        arguments = ("correct_reuse", 1, 128, [out, X])
        threads.append(threading.Thread(target=planted.launch, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        assert_array_equal(out, PASSES)


def test_impossible_launches_are_refused(planted: EmulatedModule) -> None:
    with pytest.raises(KernelError, match="more than 1024 threads") as caught:
        planted.launch("trapped", 1, 1025, [zeros(1)])
    assert caught.value.code == 1
    with pytest.raises(KernelError, match="of size 0"):
        planted.launch("trapped", 0, 1, [zeros(1)])
    with pytest.raises(KernelError, match="227 KiB"):
        planted.launch("trapped", 1, 1, [zeros(1)], shared_bytes=232449)
    with pytest.raises(TypeError, match="takes 1 arguments, not 2"):
        planted.launch("trapped", 1, 1, [zeros(1), 3])
    with pytest.raises(KeyError, match="nothing"):
        planted.launch("nothing", 1, 1, [])


def test_a_segfault_outside_kernels_is_left_to_python() -> None:
    """faulthandler, which was installed first, still handles it."""
    code = (
        "import ctypes, faulthandler, numpy as np; faulthandler.enable()\n"
        "from cullama.emulation.kernel import EmulatedModule, KernelError\n"
        "from emulation.test_scheduler import STORE\n"
        "module = EmulatedModule(STORE)\n"
        "try: module.launch('store', 1, 1, [0])\n"
        "except KernelError as error: print(error)\n"
        "ctypes.string_at(8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "illegal address" in done.stdout
    assert done.returncode == -11
    assert "Fatal Python error: Segmentation fault" in done.stderr


# --- without a CUDA compiler ----------------------------------------------------------------------

STORE = (
    HEADER
    + """
.visible .entry store(.param .u64 p) {
 .reg .b64 %rd<2>;
 ld.param.u64 %rd1, [p];
 st.global.u32 [%rd1], 7;
 ret;
}
"""
)

PRODUCER = (
    HEADER
    + """
.visible .entry produce(.param .u64 p) {
 .reg .pred %q; .reg .b32 %r<5>; .reg .b64 %rd<3>;
 .shared .align 4 .b8 row[256];
 mov.u32 %r1, %tid.x;
 mov.u32 %r2, row;
 and.b32 %r3, %r1, 31;
 mad.lo.u32 %r2, %r3, 4, %r2;
 setp.lt.u32 %q, %r1, 32;
 @%q bra CONSUME;
 st.shared.u32 [%r2], %r1;
 barrier.sync 1, 64;
 ret;
CONSUME:
 barrier.sync 1, 64;
 ld.shared.u32 %r4, [%r2];
 ld.param.u64 %rd1, [p];
 mad.wide.u32 %rd1, %r1, 4, %rd1;
 st.global.u32 [%rd1], %r4;
 ret;
}
"""
)


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
def test_a_named_barrier_joins_part_of_a_block_at_different_lines(schedule: Schedule) -> None:
    out = np.zeros(32, np.uint32)
    EmulatedModule(PRODUCER).launch("produce", 1, 64, [out], schedule=schedule)
    assert_array_equal(out, np.arange(32, 64))


def test_a_producer_may_arrive_and_continue() -> None:
    text = PRODUCER.replace("barrier.sync 1, 64;\n ret", "barrier.arrive 1, 64;\n ret")
    out = np.zeros(32, np.uint32)
    EmulatedModule(text).launch("produce", 1, 64, [out])
    assert_array_equal(out, np.arange(32, 64))


def test_a_barrier_with_too_few_threads_is_reported() -> None:
    text = PRODUCER.replace("1, 64", "1, 96")
    with pytest.raises(KernelError, match="deadlock"):
        EmulatedModule(text).launch("produce", 1, 64, [np.zeros(32, np.uint32)])


ORDER = (
    HEADER
    + """
.visible .entry order(.param .u64 p, .param .u64 counter) {
 .reg .b32 %r<6>; .reg .b64 %rd<3>;
 ld.param.u64 %rd1, [counter];
 atom.global.add.u32 %r1, [%rd1], 1;
 ld.param.u64 %rd2, [p];
 mad.wide.u32 %rd2, %r1, 4, %rd2;
 mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
 mad.lo.u32 %r5, %r2, %r3, %r4;
 st.global.u32 [%rd2], %r5;
 ret;
}
"""
)


def order_of(schedule: Schedule) -> Array:
    out, counter = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
    EmulatedModule(ORDER).launch("order", 4, 16, [out, counter], schedule=schedule)
    return out


def test_orders_of_blocks_and_threads() -> None:
    every = np.arange(64)
    assert_array_equal(order_of(Schedule("ascending")), every)
    assert_array_equal(order_of(Schedule("descending")), every[::-1])
    first, again, other = (order_of(Schedule("random", seed)) for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any()
    assert_array_equal(np.sort(first), every)
    blocks = first.reshape(4, 16) // 16
    assert (blocks == blocks[:, :1]).all()
