"""Which backends and storage types every operator test runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike
from subject import STORAGE, Subject

from cullama.operators import Operators

# Storage type → the operators, and the type of what lies between two of them.
Make = Callable[[str], tuple[Operators[Any], DTypeLike]]


def cpu(dtype: str) -> tuple[Operators[Any], DTypeLike]:
    from cullama.cpu.operators import CpuOperators

    return CpuOperators(dtype, threads=1, has_tiles=False), np.float32


def cpu_with_tiles(dtype: str) -> tuple[Operators[Any], DTypeLike]:
    from cullama.cpu.operators import CpuOperators

    return CpuOperators(dtype, threads=1, has_tiles=True), np.float32


# A new backend is one line here: its name → how it is made, in which storage types.
BACKENDS: dict[str, tuple[Make, list[str]]] = {
    "cpu": (cpu, [*STORAGE]),
    "cpu_with_tiles": (cpu_with_tiles, ["float32"]),  # only float32 has another layout
}


@pytest.fixture(
    scope="session",
    params=[(name, dtype) for name, (_, dtypes) in BACKENDS.items() for dtype in dtypes],
    ids="-".join,
)
def subject(request: pytest.FixtureRequest) -> Subject:
    backend, dtype = request.param
    ops, activation_type = BACKENDS[backend][0](dtype)
    return Subject(backend, dtype, ops, activation_type)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
