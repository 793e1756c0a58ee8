"""The GPU that tests of the CUDA backend run on: emulated on the CPU, or real.

With CULLAMA_TEST_GPU=1 (`make test-gpu`) it is this machine's; else the emulated one, with the PTX
files that ship. `missing()` says why neither is available.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

from cullama.cuda.module import PTX_FOLDER
from cullama.inspect.kernels.launching import SeparateAllocations

IS_REAL = os.environ.get("CULLAMA_TEST_GPU") == "1"


@cache
def missing() -> str | None:
    """Return why the CUDA backend cannot be tested here, or None."""
    if not any(PTX_FOLDER.glob("*/*.ptx")):
        return "the kernels are not built: run `make ptx`"
    if IS_REAL:
        return None
    if shutil.which("g++") is None:
        return "g++ is not installed, which builds the emulated GPU"
    try:
        import cuda.bindings  # noqa: F401
    except ImportError:
        return "cuda-bindings is not installed: pip install -e '.[dev]'"
    return None


@cache
def emulated() -> Any:
    """Load the emulated GPU into this process, and return its knobs."""
    assert not IS_REAL
    from cullama.emulation import device

    return device.preload()


@cache
def compile_kernels(dtype: str = "float32") -> None:
    """Compile the kernels of a storage type before a process with a time limit needs them."""
    from cullama.emulation.ahead import compile_ahead

    compile_ahead(PTX_FOLDER / "compute_90a", dtype)


def require_emulated() -> None:
    """Skip the test where `--backend emulated` cannot be used; have its kernels compiled."""
    if IS_REAL:
        pytest.skip("the GPU of this machine is not the one to be tested")
    if reason := missing():
        pytest.skip(reason)
    compile_kernels()


@contextmanager
def started_emulation() -> Iterator[None]:
    """Let `backend="emulated"` start in this process inside the `with`, which tests of "cuda", on
    the same emulated GPU, do not find started."""
    require_emulated()
    from cullama.emulation.start import start_emulation

    with emulated().set_aside():
        try:
            yield
        finally:
            start_emulation.cache_clear()


def require() -> None:
    """Skip the test or fixture that calls this where there is no GPU, real or emulated."""
    if reason := missing():
        pytest.skip(reason)
    if not IS_REAL:
        emulated()


def operators(dtype: str, *, has_cublas: bool = True, deterministic: bool = False) -> Any:
    """Return the CUDA backend, with every array in its own allocation."""
    require()
    from cullama.cuda.driver import Device
    from cullama.cuda.operators import CudaOperators

    with pytest.MonkeyPatch.context() as patch:
        if not has_cublas:
            patch.setattr("cullama.cuda.cublas.find_cublas", lambda: None)
        return CudaOperators(dtype, Device(), deterministic, pool=SeparateAllocations)
