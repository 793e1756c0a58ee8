"""Which backends and storage types every operator test runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike
from subject import STORAGE, Subject

from cullama.operators import Operators


def cpu(dtype: str) -> tuple[Operators[Any], DTypeLike]:
    from cullama.cpu.operators import CpuOperators

    return CpuOperators(dtype, threads=1), np.float32


# A new backend is one line here: its name → its operators, and the type of its activations.
BACKENDS: dict[str, Callable[[str], tuple[Operators[Any], DTypeLike]]] = {"cpu": cpu}


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=STORAGE)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def subject(backend: str, dtype: str) -> Subject:
    ops, activation_type = BACKENDS[backend](dtype)
    return Subject(backend, dtype, ops, activation_type)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
