"""Kernels compiled for a release, by NVRTC 12.0, give the same results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import pytest
from checks import CHECKS, in_all_orders


@pytest.fixture(scope="module")
def ops(released: Path) -> Iterator[Any]:
    if gpu.IS_REAL:
        pytest.skip("`make ptx-release test-gpu` runs all tests with them there")
    gpu.require()
    with gpu.emulated().set_aside(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("cullama.cuda.module.PTX_FOLDER", released)
        operators = gpu.operators("float32", has_cublas=False)
        yield operators
        operators.close()


@pytest.mark.parametrize("kernel", sorted(CHECKS))
def test_a_released_kernel_gives_numpys_results(ops: Any, kernel: str) -> None:
    in_all_orders(CHECKS[kernel], ops)
