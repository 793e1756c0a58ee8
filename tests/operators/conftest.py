"""Which backends and storage types every operator test runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from math import inf

import gpu
import numpy as np
import pytest
from numpy.typing import DTypeLike
from subject import STORAGE, Subject

from cullama.model.operators import AnyOperators

# Storage type → the operators, and the type of what lies between two of them.
Make = Callable[[str], tuple[AnyOperators, DTypeLike]]


def cpu(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    from cullama.cpu.operators import CpuOperators

    return CpuOperators(dtype, threads=1, has_tiles=False), np.float32


def cpu_with_columns(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    """Weights as a model small enough for the processor's caches has them."""
    ops, activation_type = cpu(dtype)
    with ops.loading(None, []):
        pass
    return ops, activation_type


def cpu_with_threads(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    """Weights in tiles where 64 divides their rows, and all work shared, however small."""
    from cullama.cpu.operators import CpuOperators
    from cullama.cpu.thread_pool import ThreadPool

    class EagerThreadPool(ThreadPool):
        def split(self, units: int, seconds: float) -> list[slice]:
            return super().split(units, inf)

    ops = CpuOperators(dtype, threads=1, has_tiles=True)
    ops.thread_pool = EagerThreadPool(3)
    return ops, np.float32


def deterministic_cpu(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    from cullama.cpu.deterministic import DeterministicCpuOperators

    return DeterministicCpuOperators(dtype, threads=1, has_tiles=True), np.float32


def compiled(instruction_set: str, threads: int, dtype: str) -> tuple[AnyOperators, DTypeLike]:
    import compiled_cpu

    return compiled_cpu.operators(instruction_set, dtype, threads), np.float32


def compiled_backends() -> dict[str, tuple[Make, list[str]]]:
    """For each instruction set of this processor: the best in all types, with a team of three.

    The others go on from there: in float16, which each of them converts in its own way.
    """
    if find_spec("llvmlite") is None:
        return {}
    from cullama.cpu.jit.instruction_sets import usable

    best, *others = [each.name for each in usable()]
    backends: dict[str, tuple[Make, list[str]]] = {
        f"compiled_{best}": (partial(compiled, best, 3), ["float32", "float16", "bfloat16"])
    }
    return backends | {
        f"compiled_{name}": (partial(compiled, name, 1), ["float16"]) for name in others
    }


def cuda(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    """On the GPU that the CPU plays, or on a real one; each array in memory of its own."""
    return gpu.operators(dtype), STORAGE[dtype]


def deterministic_cuda(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    return gpu.operators(dtype, deterministic=True), STORAGE[dtype]


def cuda_without_cublas(dtype: str) -> tuple[AnyOperators, DTypeLike]:
    return gpu.operators(dtype, has_cublas=False), STORAGE[dtype]


# A new backend is one line here: its name → how it is made, in which storage types.
BACKENDS: dict[str, tuple[Make, list[str]]] = {
    "cpu": (cpu, ["float32", "float16", "bfloat16"]),
    "cpu_with_columns": (cpu_with_columns, ["float32"]),
    "cpu_with_threads": (cpu_with_threads, ["float32", "bfloat16"]),
    "deterministic_cpu": (deterministic_cpu, ["float32"]),
    "cuda": (cuda, ["float32", "float16", "bfloat16"]),
    "cuda_without_cublas": (cuda_without_cublas, ["bfloat16"]),
    "deterministic_cuda": (deterministic_cuda, ["bfloat16"]),
    **compiled_backends(),
}


SUBJECTS = [
    pytest.param(
        (name, dtype),
        id=f"{name}-{dtype}",
        marks=pytest.mark.gpu if "cuda" in name else (),
    )
    for name, (_, dtypes) in BACKENDS.items()
    for dtype in dtypes
]
if find_spec("llvmlite") is None:
    missing = pytest.mark.skip(reason="llvmlite is not installed: pip install -e '.[llvm]'")
    SUBJECTS.append(pytest.param(("compiled", ""), id="compiled", marks=missing))


# Made anew for each module: `loading`, which one of them tests, may change how weights lie.
@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    backend, dtype = request.param
    ops, activation_type = BACKENDS[backend][0](dtype)
    yield Subject(backend, dtype, ops, activation_type)
    ops.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
