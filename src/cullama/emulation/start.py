"""Starts the emulated GPU for `--backend emulated`, and says what it lacks where it cannot.

The driver stays in the process until it ends, so no other GPU can be used in it. Nothing of the
emulator is imported before it is started.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from importlib.util import find_spec

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

    try:
        compiler = build.compiler()
        if not any(build.folder().glob("*-*.so")):
            logger.info("compiling kernels for this processor, to be kept in %s", build.folder())
        gpu = device.preload()
    except build.NoCompilerError:
        raise DeviceUnavailableError(
            "no C++ compiler was found, which the emulated GPU needs",
            "install g++ (Debian, Ubuntu: apt install g++), or set CXX",
        ) from None
    except build.BuildError as error:
        raise DeviceUnavailableError(
            f"the emulated GPU cannot be built with {compiler}: {' '.join(str(error).split())}",
            "set CXX to g++ 9 or newer",
        ) from None
    except OSError as error:
        raise DeviceUnavailableError(
            f"the emulated GPU cannot be built: {error}",
            "set CULLAMA_EMULATION_CACHE to a folder that can be written",
        ) from None
    knobs = {
        "memory_bytes": memory_limit() // 2,
        "fill": 0,  # which would touch all of the KV cache
        "verbose": 1,  # what a kernel did wrong, and at which line
    }
    for name, value in knobs.items():
        if device.PREFIX + name.upper() not in os.environ:
            gpu.set(name, value)


def check_not_emulated() -> None:
    """Check that the GPUs which this process sees are real.

    Raises:
        DeviceUnavailableError: the emulated driver was started in their place.
    """
    if start_emulation.cache_info().currsize:
        raise DeviceUnavailableError(
            "the emulated GPU has taken the driver's place in this process",
            "use cuda in a process of its own",
        )
