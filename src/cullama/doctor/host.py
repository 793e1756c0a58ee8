"""Facts about Python, numpy and its BLAS, the processor, the environment, and cullama's cache.

Facts about GPUs are in doctor/gpus.py.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from ..backends import COMPILER, INSTALL_COMPILER
from ..cpu.threads import physical_cores
from ..errors import CullamaError
from ..files.cache_folder import cache_folder
from ..files.host_memory import available_memory, machine_memory, memory_limit
from ..version import __version__
from .findings import Fact

# Variables that are easily forgotten. NVIDIA's CUDA programming guide and numpy's BLAS define them.
VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "the GPUs that programs see",
    "CUDA_DEVICE_ORDER": "how GPUs are numbered",
    "CUDA_LAUNCH_BLOCKING": "1 waits for every kernel, which is slow",
    "CUDA_MODULE_LOADING": "when kernels are loaded",
    "CUDA_FORCE_PTX_JIT": "1 compiles PTX even if it has been compiled before",
    "CUDA_DISABLE_PTX_JIT": "1 keeps the driver from compiling PTX",
    "CUDA_CACHE_DISABLE": "1 compiles PTX at every start",
    "CUDA_CACHE_PATH": "where the driver caches compiled PTX",
    "CUDA_CACHE_MAXSIZE": "how many bytes of compiled PTX are cached",
    "NVIDIA_TF32_OVERRIDE": "1 lets cuBLAS round float32 to ten bits",
    "LD_PRELOAD": "libraries that are loaded before all others",
    "OPENBLAS_NUM_THREADS": "cullama sets numpy's threads itself",
    "OMP_NUM_THREADS": "cullama sets numpy's threads itself",
    "MKL_NUM_THREADS": "cullama sets numpy's threads itself",
    "CULLAMA_CACHE": "where cullama keeps models",
}
# The processor features that decide how fast it multiplies.
FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "asimddp",
    "amx_bf16",
    "asimd",
    "sve",
    "i8mm",
)


def host_facts() -> Iterator[Fact]:
    """Yield all facts about the host."""
    yield Fact("cullama", f"{__version__} · {Path(__file__).parents[1]}", {"version": __version__})

    version, system = platform.python_version(), platform.platform(terse=True)
    found = f"{platform.python_implementation()} {version} · {system} · {platform.machine()}"
    yield Fact("Python", found, {"version": version, "platform": platform.platform()})
    yield _numpy()
    yield _processor()
    yield _kernels()

    total, limit, free = machine_memory(), memory_limit(), available_memory()
    allowed = f", {gigabytes(limit)} of it allowed to this process" if limit < total else ""
    found = f"{gigabytes(total)}{allowed}, {gigabytes(free)} available"
    details = {"total_bytes": total, "limit_bytes": limit, "available_bytes": free}
    yield Fact("memory", found, details)
    yield _own_cache()

    present = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    words = [f"{name}={value!r} ({VARIABLES[name]})" for name, value in present.items()]
    yield Fact("environment", "; ".join(words) or "no variable set that matters", dict(present))


def _numpy() -> Fact:
    libraries = ThreadpoolController().select(user_api="blas").info()
    blas = libraries[0] if libraries else {}
    details = {
        "version": np.__version__,
        "blas": blas.get("internal_api"),
        "blas_version": blas.get("version"),
        "blas_architecture": blas.get("architecture"),
        "blas_threads": blas.get("num_threads"),
    }
    if not blas:
        found = f"{np.__version__} · an unknown BLAS"
        return Fact("numpy", found, details)
    kind = f"{blas.get('internal_api')} {blas.get('version') or 'of unknown version'}"
    architecture = blas.get("architecture") or "unknown"
    threads = _count(int(blas.get("num_threads", 1)), "thread")
    found = f"{np.__version__} · BLAS: {kind}, for {architecture}, {threads}"
    return Fact("numpy", found, details)


def _processor() -> Fact:
    described = _key_values(Path("/proc/cpuinfo"))
    model = described.get("model name") or platform.processor() or platform.machine()
    flags = (described.get("flags") or described.get("Features") or "").split()
    features = [feature for feature in FEATURES if feature in flags]
    cores, processors = physical_cores(), os.cpu_count() or 1
    of = f"{_count(cores, 'core')} to use, {_count(processors, 'processor')}"
    details = {"model": model, "cores": cores, "processors": processors, "features": features}
    return Fact("CPU", " · ".join(filter(None, [model, of, " ".join(features)])), details)


def _kernels() -> Fact:
    """Name the compiler of the CPU's kernels, and the instruction sets that are used here."""
    if not find_spec(COMPILER):
        remedy = f"several times as fast: {INSTALL_COMPILER}"
        return Fact("CPU kernels", "numpy's, as there is no llvmlite", remedy=remedy)
    import llvmlite

    from ..cpu.jit.instruction_sets import usable

    sets = [each.name for each in usable()]
    compiler = f"llvmlite {llvmlite.__version__}"
    details = {"compiler": compiler, "instruction_sets": sets}
    return Fact("CPU kernels", f"{', '.join(sets)} · {compiler}", details)


def _own_cache() -> Fact:
    try:
        folder = cache_folder()
    except CullamaError as error:
        return Fact("model cache", str(error))
    size = bytes_in(folder)
    found = f"{folder} · {megabytes(size)}"
    return Fact("model cache", found, {"folder": str(folder), "bytes": size})


def bytes_in(folder: Path) -> int:
    """Return the size of all files in a folder; files that cannot be read count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _key_values(path: Path) -> dict[str, str]:
    """Return the first value of each key in a file of `key : value` lines; {} if it is missing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    return {key.strip(): value.strip() for key, value in pairs}
