"""How many threads: by a rule that a test can read, within what the machine grants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import cullama
from cullama.cpu.threads import blas_architecture, choose_threads, limit_blas, physical_cores
from cullama.errors import UsageError

GROUPS = "/sys/fs/cgroup"
QUOTA = f"{GROUPS}/cpu.max"
VERSION_2 = {
    "/proc/self/cgroup": "0::/\n",
    "/proc/self/mountinfo": f"31 23 0:28 / {GROUPS} rw - cgroup2 cgroup2 rw\n",
}
VERSION_1 = {
    "/proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
    "/proc/self/mountinfo": f"31 23 0:28 /docker/abc {GROUPS}/cpu ro - cgroup cgroup rw,cpu\n",
}


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    with threadpool_limits():
        yield


def siblings(processor: int) -> str:
    return f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine made of processors and of what its files say; others do not exist."""

    def build(processors: int, files: dict[str, str]) -> None:
        def read_text(path: Path, *arguments: Any, **options: Any) -> str:
            if str(path) not in files:
                raise FileNotFoundError(str(path))
            return files[str(path)]

        everything = set(range(processors))
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: everything, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: processors)
        monkeypatch.setattr(Path, "read_text", read_text)

    return build


def blas_threads() -> set[int]:
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


# --- cores


def test_hyper_threads_share_a_core(machine: Any) -> None:
    machine(8, {siblings(i): f"{i % 4},{i % 4 + 4}\n" for i in range(8)})
    assert physical_cores() == 4


def test_every_processor_is_a_core_where_the_system_does_not_tell(machine: Any) -> None:
    machine(3, {})
    assert physical_cores() == 3


def test_only_processors_that_may_be_used_count(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(8, {siblings(i): f"{i % 4},{i % 4 + 4}\n" for i in range(8)})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 2}, raising=False)
    assert physical_cores() == 2


def test_a_system_without_affinity_has_all_its_processors(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(6, {})
    monkeypatch.delattr(os, "sched_getaffinity")
    assert physical_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert physical_cores() == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("junk\n", 8),
        ("100000\n", 8),
        ("100000 0\n", 8),
        ("junk 100000\n", 8),
    ],
)
def test_a_container_s_quota_limits_the_cores(machine: Any, quota: str, cores: int) -> None:
    machine(8, {**VERSION_2, QUOTA: quota})
    assert physical_cores() == cores
    machine(8, {QUOTA: quota})  # it is not said to be this process's
    assert physical_cores() == 8


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2), ("10000", 1), ("", 8)])
def test_a_quota_of_version_1_limits_the_cores(machine: Any, quota: str, cores: int) -> None:
    times = {f"{GROUPS}/cpu/cpu.cfs_quota_us": quota, f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n"}
    machine(8, VERSION_1 | times)
    assert physical_cores() == cores


def test_this_machine_has_a_core() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


# --- the choice


def test_every_core_is_taken_unless_told_otherwise(machine: Any) -> None:
    machine(8, {siblings(i): f"{i % 4},{i % 4 + 4}\n" for i in range(8)})
    assert choose_threads(None) == 4


def test_a_number_asked_for_is_used(machine: Any) -> None:
    machine(8, {siblings(i): f"{i % 4},{i % 4 + 4}\n" for i in range(8)})
    assert [choose_threads(asked) for asked in range(1, 9)] == list(range(1, 9))


@pytest.mark.parametrize("asked", [0, -1, 9, 10**9, True, 1.0, 1.5, "2", [2]])
def test_an_impossible_count_is_refused_with_the_range(machine: Any, asked: Any) -> None:
    machine(8, {})
    with pytest.raises(UsageError, match="1 to 8") as caught:
        choose_threads(asked)
    assert f"threads is {asked!r}" in str(caught.value)


# --- the setting


def available() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def test_the_blas_keeps_to_its_limit() -> None:
    for threads in (available(), 1):
        limit_blas(threads)
        _ = np.ones((64, 64)) @ np.ones((64, 64))
        assert blas_threads() <= {threads}


def test_the_blas_may_be_any() -> None:
    assert isinstance(blas_architecture(), str)


def test_a_model_says_how_many_it_took_and_leaves_the_blas_one(tiny_model: Path) -> None:
    for threads in (None, 1, available()):
        with cullama.LLM(tiny_model, backend="cpu", threads=threads) as llm:
            count = threads or physical_cores()
            assert f"· {count} thread{'s' if count > 1 else ''}" in llm.description
            assert blas_threads() <= {1}
