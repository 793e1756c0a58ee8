"""The memory that a process may use, and what it may be told of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from group_tree import UNLIMITED, version_1, version_2, write_files

from cullama.files.host_memory import available_memory, machine_memory, memory_limit

MB = 1 << 20


def test_free_swap_counts_where_it_is_asked_for_and_no_group_is_tighter(tmp_path: Path) -> None:
    write_files(tmp_path / "proc", {"meminfo": "MemAvailable: 1024 kB\nSwapFree: 2048 kB\n"})
    assert available_memory(tmp_path) == MB
    assert available_memory(tmp_path, with_swap=True) == 3 * MB


def test_without_limits_all_memory_may_be_used(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == available_memory(tmp_path) == machine_memory() > MB


def test_a_container_of_version_2_limits_it(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/", {"memory.max": f"{64 * MB}\n", "memory.current": f"{24 * MB}"})
    assert (memory_limit(root), available_memory(root)) == (64 * MB, 40 * MB)


def test_a_container_of_version_1_limits_it(tmp_path: Path) -> None:
    files = {
        "memory.limit_in_bytes": f"{UNLIMITED}\n",
        "docker/memory.limit_in_bytes": f"{64 * MB}\n",
        "docker/memory.usage_in_bytes": f"{24 * MB}\n",
    }
    root = version_1(tmp_path, "/docker", files)
    assert (memory_limit(root), available_memory(root)) == (64 * MB, 40 * MB)


@pytest.mark.parametrize("tight", ["", "pods/", "pods/pod1/", "pods/pod1/main/"])
def test_the_tightest_of_nested_groups_counts(tmp_path: Path, tight: str) -> None:
    names = ["", "pods/", "pods/pod1/", "pods/pod1/main/"]
    limits = {f"{name}memory.max": f"{64 * MB if name == tight else 96 * MB}\n" for name in names}
    root = version_2(tmp_path, "/pods/pod1/main", limits)
    assert memory_limit(root) == 64 * MB


def test_a_group_that_is_slowed_down_counts_as_limited(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/", {"memory.max": "max\n", "memory.high": f"{64 * MB}\n"})
    assert memory_limit(root) == 64 * MB


def test_pages_of_files_count_as_free(tmp_path: Path) -> None:
    stat = f"anon {8 * MB}\ninactive_file {10 * MB}\nactive_file {2 * MB}\n"
    files = {"memory.max": f"{64 * MB}", "memory.current": f"{24 * MB}", "memory.stat": stat}
    assert available_memory(version_2(tmp_path, "/", files)) == 52 * MB


def test_version_1_counts_the_pages_of_groups_below_too(tmp_path: Path) -> None:
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {9 * MB}\ntotal_active_file {MB}\n"
    files = {
        "memory.limit_in_bytes": f"{64 * MB}",
        "memory.usage_in_bytes": f"{24 * MB}",
        "memory.stat": stat,
    }
    assert available_memory(version_1(tmp_path, "/", files)) == 50 * MB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"memory.max": f"{MB}", "memory.current": f"{2 * MB}"}
    assert available_memory(version_2(tmp_path, "/", files)) == 0


def test_what_other_programs_use_is_not_available(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4096 kB\n"})
    assert available_memory(tmp_path) == 4 * MB
    assert memory_limit(tmp_path) == machine_memory()


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(kind: str) -> None:
    code = f"""
import resource
from cullama.files.host_memory import available_memory, memory_limit
resource.setrlimit(resource.{kind}, (900 << 20, -1))
before, block = available_memory(), bytearray(200 << 20)
print(memory_limit() >> 20, before - available_memory() >> 20, available_memory() < 700 << 20)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.split() == ["900", "200", "True"]
