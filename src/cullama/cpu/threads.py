"""Decides how many threads the CPU backend uses, from the cores that this process may use.

The threads themselves are `thread_pool.py`'s. numpy's BLAS is limited to one thread, because its
own spin, and two pools would compete for the cores.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadpoolctl import ThreadpoolController

from ..errors import UsageError
from ..files.cgroup import group_folders, read_number

QUOTA = ("quota", "period")  # version 1's names of what version 2 writes in one file


def choose_threads(asked: int | None) -> int:
    """Return the number asked for, or by default one for each physical core.

    Raises:
        UsageError: it is below one, or above the number of processors.
    """
    available = len(_usable_processors())
    if asked is None:
        return physical_cores()
    if type(asked) is not int or not 1 <= asked <= available:
        raise UsageError(
            f"threads is {asked!r}, expected 1 to {available}, this machine's processors"
        )
    return asked


def limit_blas(threads: int) -> None:
    """Limit numpy's BLAS to that many threads from now on."""
    ThreadpoolController().select(user_api="blas").limit(limits=threads)


def blas_architecture() -> str:
    """Return the processor family whose kernels the BLAS uses, as OpenBLAS names it, or ""."""
    libraries = ThreadpoolController().select(user_api="blas").info()
    return next((str(info.get("architecture", "")) for info in libraries), "")


def physical_cores() -> int:
    """Return the cores that this process may use: no hyper-threads, within a container's quota."""
    usable = _usable_processors()
    cores = len({_core_of(processor) for processor in usable})
    return max(1, min(cores, _container_quota() or cores))


def _usable_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(processor: int) -> str:
    """Return the list of processors that share this one's core; where unknown, itself alone."""
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(processor)


def _container_quota() -> int | None:
    """Return the processors that control groups grant, rounded down, or None without a limit."""
    quotas = [quota for folder in group_folders("cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _quota(folder: Path) -> int | None:
    """Return the processors that one group grants; both versions write two times."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (str(read_number(folder / f"cpu.cfs_{name}_us")) for name in QUOTA)
    try:
        return max(1, int(quota) // int(period))
    except (ValueError, ZeroDivisionError):  # "max", -1 or no such file: no limit
        return None
