"""How many threads numpy's BLAS works with: chosen by a stated rule, reported, settable.

It knows the processor's cores and the BLAS library that numpy loaded, through threadpoolctl.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadpoolctl import ThreadpoolController

from ..errors import UsageError

# A model whose weights stay in the processor's caches gains nothing from a second core: handing
# a product of microseconds over to it costs as much as the product.
SMALL_MODEL_PARAMETERS = 4_000_000


def choose_threads(asked: int | None, parameters: int) -> int:
    """The number asked for; else one for a small model, and one per physical core for others.

    Raises:
        UsageError: fewer than one, or more than the processor has.
    """
    available = len(_usable_processors())
    if asked is None:
        return 1 if parameters < SMALL_MODEL_PARAMETERS else physical_cores()
    if not 1 <= asked <= available:
        raise UsageError(
            f"threads is {asked}, expected 1 to {available}, this machine's processors"
        )
    return asked


def set_threads(threads: int) -> str:
    """Set the BLAS of this process to that many threads; says which BLAS it is."""
    controller = ThreadpoolController().select(user_api="blas")
    controller.limit(limits=threads)  # stays, because nobody restores it
    found = [info["internal_api"] for info in controller.info()]
    return found[0] if found else "a BLAS whose threads cannot be set"


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
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
