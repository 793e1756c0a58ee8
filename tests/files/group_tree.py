"""Control groups as files in a folder, as a container's /proc and /sys show them."""

from __future__ import annotations

from pathlib import Path

UNLIMITED = 9223372036854771712  # what version 1 writes where there is no limit


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_2(root: Path, group: str, files: dict[str, str], seen: str = "/") -> Path:
    """A process in `group`, where the group `seen` is mounted at /sys/fs/cgroup."""
    mount = f"31 23 0:28 {seen} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    facts = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": mount}
    groups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return write_files(root, facts | groups)


def version_1(root: Path, group: str, files: dict[str, str], seen: str = "/") -> Path:
    """The same in version 1, whose controllers have mounts of their own."""
    mounts = (
        "30 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        f"31 23 0:28 {seen} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"32 23 0:29 {seen} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    own = f"9:name=systemd:/\n5:cpu,cpuacct:/elsewhere\n4:memory:{group}\n"
    groups = {f"sys/fs/cgroup/memory/{name}": text for name, text in files.items()}
    return write_files(root, {"proc/self/cgroup": own, "proc/self/mountinfo": mounts} | groups)
