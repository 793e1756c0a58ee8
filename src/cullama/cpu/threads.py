"""How many threads the CPU backend works with: chosen by a stated rule, reported, settable.

They are the crew's (`crew.py`); numpy's BLAS is kept to one thread, because its own spin, and two
sets of threads would fight for the cores. It knows the processor's cores and the BLAS library that
numpy loaded, through threadpoolctl.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadpoolctl import ThreadpoolController

from ..errors import UsageError


def choose_threads(asked: int | None) -> int:
    """The number asked for, else one for each physical core.

    Raises:
        UsageError: fewer than one, or more than the processor has.
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
    """Let numpy's BLAS work with that many threads from now on."""
    ThreadpoolController().select(user_api="blas").limit(limits=threads)


def blas_architecture() -> str:
    """The processor family whose kernels the BLAS has chosen, as OpenBLAS names it, or ""."""
    libraries = ThreadpoolController().select(user_api="blas").info()
    return next((str(info.get("architecture", "")) for info in libraries), "")


def physical_cores() -> int:
    """Cores this process may use, hyper-threads not counted, within a container's quota."""
    usable = _usable_processors()
    cores = len({_core_of(processor) for processor in usable})
    return max(1, min(cores, _container_quota() or cores))


def _usable_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(processor: int) -> str:
    """The siblings that share this processor's core; itself where the system does not tell."""
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(processor)


def _container_quota() -> int | None:
    """Whole processors granted by cgroup v2, or None where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number, and no limit
        return None
