"""Starts the emulated GPU for `--backend emulated`, and says what it lacks where it cannot.

The driver stays in the process until it ends, so no other GPU can be used in it. Nothing of the
emulator is imported before it is started.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import DeviceUnavailableError
from ..files.host_memory import memory_limit

logger = logging.getLogger("cullama")

SLOWNESS = "slow: the CPU executes each thread of the GPU's kernels"


@cache
def start_emulation() -> None:
    """Load the emulated driver and cuBLAS into this process, once.

    Its memory is half of what this process may have. What the kernels' PTX is compiled to is kept
    in the cache folder; the log says so where that takes time.

    Raises:
        DeviceUnavailableError: this machine lacks something, or a real driver is loaded.
    """
    if sys.platform != "linux":
        raise DeviceUnavailableError(
            "the emulated GPU runs on Linux only", "start a container or a virtual machine with it"
        )
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        raise DeviceUnavailableError(
            "the package cuda-bindings is not installed", "pip install 'cullama[emulation]'"
        )
    from . import build, device

    with _building():
        build.compiler()
        if not device.is_built():
            logger.info("compiling the emulated GPU, to be kept in %s", build.cache_folder())
        gpu = device.preload()
    knobs = {
        "memory_bytes": memory_limit() // 2,
        "fill": 0,  # which would touch all of the KV cache
        "verbose": 1,  # what a kernel did wrong, and at which line
    }
    for name, value in knobs.items():
        if device.PREFIX + name.upper() not in os.environ:
            gpu.set(name, value)


def compile_kernels(ptx: Path, dtype: str) -> None:
    """Compile what a model in this storage type needs of a folder of PTX, on all cores.

    Raises:
        DeviceUnavailableError: it does not compile here.
    """
    from .ahead import compile_ahead

    with _building():
        compile_ahead(ptx, dtype)


@contextmanager
def _building() -> Iterator[None]:
    """Say what is missing where something cannot be built."""
    from . import build

    try:
        yield
    except build.NoCompilerError:
        raise DeviceUnavailableError(
            "no C++ compiler was found, which the emulated GPU needs",
            "install g++ (Debian, Ubuntu: apt install g++), or set CXX",
        ) from None
    except build.BuildError as error:
        raise DeviceUnavailableError(
            f"the emulated GPU cannot be built with {build.compiler()}: "
            f"{' '.join(str(error).split())}",
            "set CXX to g++ 9 or newer",
        ) from None
    except OSError as error:
        raise DeviceUnavailableError(
            f"the emulated GPU cannot be built: {error}",
            "set CULLAMA_EMULATION_CACHE to a folder that can be written",
        ) from None


def is_started() -> bool:
    """Return whether the GPU of this process is the emulated one."""
    return bool(start_emulation.cache_info().currsize)


def check_not_emulated() -> None:
    """Check that the GPUs which this process sees are real.

    Raises:
        DeviceUnavailableError: the emulated driver was started in their place.
    """
    if is_started():
        raise DeviceUnavailableError(
            "the emulated GPU has taken the driver's place in this process",
            "use cuda in a process of its own",
        )
