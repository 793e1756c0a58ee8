"""The probe finds a backend's storage type."""

from __future__ import annotations

import pytest
from planted import OpaqueOperators

from cullama.cpu.operators import CpuOperators
from cullama.inspect.diff.storage import TOLERANCES, coarser, storage_type


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("has_tiles", [False, True])
def test_the_probe_finds_the_type(dtype: str, has_tiles: bool) -> None:
    assert storage_type(CpuOperators(dtype, threads=1, has_tiles=has_tiles)) == dtype


def test_the_probe_finds_a_devices_type() -> None:
    assert storage_type(OpaqueOperators()) == "bfloat16"


def test_the_coarser_of_two_types_is_taken() -> None:
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"
    assert coarser("float32", "float32") == "float32"
