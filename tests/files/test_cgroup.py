"""Which control groups a process is in, as /proc tells it in each of its ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from group_tree import version_1, version_2, write_files

from cullama.files.cgroup import group_folders, read_number


def folders(root: Path, controller: str = "memory") -> list[str]:
    found = group_folders(controller, root)
    return [path.relative_to(root / "sys/fs/cgroup").as_posix() for path in found]


def test_a_nested_group_comes_before_the_groups_around_it(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/pods/pod1/main", {"pods/pod1/main/memory.max": "max\n"})
    assert folders(root) == ["pods/pod1/main", "pods/pod1", "pods", "."]


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    assert folders(version_2(tmp_path, "/", {"memory.max": "1\n"})) == ["."]


@pytest.mark.parametrize("make", [version_1, version_2])
def test_a_container_s_mount_is_read_where_its_group_is_named_as_the_host_has_it(
    tmp_path: Path, make: object
) -> None:
    assert callable(make)
    root = make(tmp_path, "/docker/abc/sub", {"sub/any": ""}, seen="/docker/abc")
    own, around = folders(root)
    assert own.removeprefix("memory/") == "sub"
    assert around in (".", "memory")


@pytest.mark.parametrize("group", ["/docker/abc", "/../other", "/gone"])
def test_a_group_outside_of_what_is_mounted_gives_the_mount_itself(
    tmp_path: Path, group: str
) -> None:
    assert folders(version_2(tmp_path, group, {"memory.max": "1\n"})) == ["."]


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    root = version_1(tmp_path, "/a/b", {"a/b/any": ""})
    assert folders(root) == ["memory/a/b", "memory/a", "memory"]
    assert folders(root, "cpu") == ["cpu,cpuacct"]
    assert folders(root, "pids") == []


def test_both_versions_may_be_mounted_side_by_side(tmp_path: Path) -> None:
    version_1(tmp_path, "/a", {"a/any": ""})
    own, mounts = tmp_path / "proc/self/cgroup", tmp_path / "proc/self/mountinfo"
    own.write_text(own.read_text() + "0::/\n")
    mounts.write_text(
        mounts.read_text() + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert folders(tmp_path) == ["memory/a", "memory", "unified"]


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    mount = r"31 23 0:28 / /sys/fs/cgroup/my\040groups rw - cgroup2 cgroup2 rw"
    write_files(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mount})
    assert folders(tmp_path) == ["my groups"]


@pytest.mark.parametrize("text", ["", "nonsense\n", "0\n", "0::\n", "a:b\n\n", "\0"])
def test_files_of_another_form_name_no_group_and_do_no_harm(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, {"proc/self/cgroup": text, "proc/self/mountinfo": text})
    assert folders(tmp_path) == []


def test_a_system_without_control_groups_has_none(tmp_path: Path) -> None:
    assert folders(tmp_path) == []


def test_a_number_is_read_from_a_file_or_behind_a_name(tmp_path: Path) -> None:
    write_files(tmp_path, {"max": "max\n", "one": "123\n", "stat": "anon 1\nfile 22\nnone\n"})
    assert read_number(tmp_path / "one") == 123
    assert read_number(tmp_path / "max") is read_number(tmp_path / "missing") is None
    assert read_number(tmp_path / "stat", "file") == 22
    assert read_number(tmp_path / "stat", "none") is read_number(tmp_path / "stat", "fil") is None
