"""Says how much memory this process may use: the least of the machine's and of every limit.

Limits are those of control groups, of both versions and nested, as containers have them, and those
of the process itself (`ulimit -v`, `ulimit -d`). It allocates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from .cgroup import group_folders, read_number

Limit: TypeAlias = tuple[int, int]  # bytes: what is allowed, and what of it is used

ROOT = Path("/")

# A group's files for its limit and for what it uses. Above `memory.high` a group is not ended, but
# slowed down until a model in it is of no use.
GROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory.high", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
# In memory.stat; version 1 counts the groups below under names of their own.
FILE_PAGES = (("total_inactive_file", "total_active_file"), ("inactive_file", "active_file"))

KILOBYTE = 1024  # as /proc has them


def memory_limit(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process may have in all."""
    return min([machine_memory(), *(allowed for allowed, _ in _limits(root))])


def available_memory(root: Path = ROOT, with_swap: bool = False) -> int:
    """Return the bytes that can still be allocated; pages of files count, as they are given up.

    `with_swap`: count the machine's free swap, too: slow memory, and yet no failure.
    """
    available = read_number(root / "proc/meminfo", "MemAvailable:")
    machine = machine_memory() if available is None else available * KILOBYTE
    if with_swap:
        machine += (read_number(root / "proc/meminfo", "SwapFree:") or 0) * KILOBYTE
    return min([machine, *(max(0, allowed - used) for allowed, used in _limits(root))])


def machine_memory() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(root: Path) -> Iterator[Limit]:
    for folder in group_folders("memory", root):
        for limit_file, usage_file in GROUP_FILES:
            limit = read_number(folder / limit_file)
            if limit is not None:
                yield limit, (read_number(folder / usage_file) or 0) - _file_pages(folder)
    yield from _limits_of_process(root)


def _file_pages(folder: Path) -> int:
    """Return the bytes that a group's pages of files take, which it gives up under pressure."""
    for names in FILE_PAGES:
        sizes = [read_number(folder / "memory.stat", name) for name in names]
        if any(size is not None for size in sizes):
            return sum(size or 0 for size in sizes)
    return 0


def _limits_of_process(root: Path) -> Iterator[Limit]:
    try:
        import resource
    except ImportError:  # Windows
        return
    status = root / "proc/self/status"
    for name, field in (("RLIMIT_AS", "VmSize:"), ("RLIMIT_DATA", "VmData:")):
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY:
            yield limit, (read_number(status, field) or 0) * KILOBYTE
