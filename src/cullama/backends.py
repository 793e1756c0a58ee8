"""Which backend: the only place that asks. A backend is imported where it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UsageError
from .operators import Operators

BACKENDS = ("auto", "cpu")
DTYPES = ("auto", "float32", "float16", "bfloat16")


def operators_for(
    backend: str,
    dtype: str,
    threads: int | None,
    weight_folder: Path | None,
    deterministic: bool = False,
) -> Operators[Any]:
    """The operators of a backend, in a storage type.

    `auto` takes the CPU, the one backend of this version, in float32: numpy multiplies nothing
    else at speed.

    Raises:
        UsageError: a backend, type or thread count that there is not.
    """
    _check("backend", backend, BACKENDS)
    _check("dtype", dtype, DTYPES)
    from .cpu.deterministic import DeterministicCpuOperators
    from .cpu.matrix import TILED_ARCHITECTURES
    from .cpu.operators import CpuOperators
    from .cpu.threads import blas_architecture, choose_threads, limit_blas

    count = choose_threads(threads)
    limit_blas(1)
    has_tiles = blas_architecture() in TILED_ARCHITECTURES
    operators = DeterministicCpuOperators if deterministic else CpuOperators
    return operators("float32" if dtype == "auto" else dtype, count, has_tiles, weight_folder)


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
