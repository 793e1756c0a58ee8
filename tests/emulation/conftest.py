"""The emulated GPU as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cullama.emulation import device


@pytest.fixture(scope="module")
def process() -> device.EmulatedGpu:
    return device.preload()


@pytest.fixture
def gpu(process: device.EmulatedGpu) -> Iterator[device.EmulatedGpu]:
    """The device as a program finds it: nothing allocated, device 0's context current."""
    from emulation.driver_calls import cu, ok

    with process.set_aside():
        ok(cu.cuInit(0))
        ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        yield process
