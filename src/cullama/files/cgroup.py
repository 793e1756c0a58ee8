"""Reads what Linux's control groups, and so containers, allow this process.

Groups are nested, and each limits everything in it: so a file is read of the process's own group
and of all groups around it. A container may see its own group alone, as the root of what is
mounted. Both versions of control groups are read, also where they are mounted side by side.
Elsewhere than on Linux there are none. It knows the files of no controller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def group_folders(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of this process's groups for a controller, each before its parents.

    Args:
        controller: "memory", "cpu" …, as version 1 names it; in version 2 a group has them all.
        root: of the file system in which /proc and the groups are looked up.
    """
    folders: list[Path] = []
    for version, group in _own_groups(controller, root):
        for seen, mount_point in _mounts(controller, version, root):
            top = root / mount_point.lstrip("/")
            below = f"{group}/".removeprefix(f"{seen.rstrip('/')}/").strip("/")
            own = top / below
            if not own.is_dir() or ".." in own.parts:  # it lies outside of what is mounted here
                own = top
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    return folders


def read_number(path: Path, name: str | None = None) -> int | None:
    """Return the number in a file, or behind a name in one of its lines; None where there is none.

    Version 2 writes "max" where there is no limit.
    """
    words = _read(path).split() if name is None else _words_behind(name, path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words_behind(name: str, path: Path) -> list[str]:
    lines = (line.split() for line in _read(path).splitlines())
    return next((words[1:] for words in lines if words[:1] == [name]), [])


def _own_groups(controller: str, root: Path) -> Iterator[tuple[int, str]]:
    """Yield the version and the path of the groups that this process is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, group
        elif controller in controllers.split(","):
            yield 1, group


def _mounts(controller: str, version: int, root: Path) -> Iterator[tuple[str, str]]:
    """Yield where groups are mounted: the group that is seen there, and the folder."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, system = line.partition(" - ")
        kind, _, options = [*system.split(), "", "", ""][:3]
        is_first = kind == "cgroup" and controller in options.split(",")
        if is_first if version == 1 else kind == "cgroup2":
            seen, mount_point = map(_unescaped, fields.split()[3:5])
            yield seen, mount_point


def _unescaped(path: str) -> str:
    r"""Spaces and such are written `\040` in mountinfo."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
