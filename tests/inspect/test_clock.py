"""Times are medians of a few runs, and a GPU stays usable."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gpu
import numpy as np
import pytest

from cullama.cpu.thread_pool import ThreadPool
from cullama.cuda.driver import Device
from cullama.cuda.memory import Pool, copy_on_device, empty
from cullama.inspect.operators.clock import DeviceClock, HostClock


@pytest.fixture
def device() -> Iterator[Device]:
    gpu.require()
    opened = Device(0)
    yield opened
    opened.close()


def test_a_slow_run_is_repeated_once_only() -> None:
    runs: list[int] = []

    def run() -> None:
        time.sleep(0.03)
        runs.append(1)

    assert 0.03 <= HostClock(ThreadPool(1)).seconds(run) < 0.3
    assert len(runs) == 2


def test_a_quick_run_is_repeated_often() -> None:
    runs: list[int] = []
    assert HostClock(ThreadPool(1)).seconds(lambda: runs.append(1)) < 1e-3
    assert 50 < len(runs) <= 101


def test_the_cpus_copy_rate_is_measured_with_any_number_of_threads() -> None:
    for threads in (1, 3):
        assert 1e8 < HostClock(ThreadPool(threads)).copy_rate(is_quick=True) < 1e13


@pytest.mark.gpu
def test_a_gpus_copy_rate_is_measured(device: Device) -> None:
    assert DeviceClock(device).copy_rate(is_quick=True) > 1e6


@pytest.mark.gpu
@pytest.mark.parametrize("can_be_captured", [True, False])
def test_runs_on_a_gpu_are_timed_captured_or_not(device: Device, can_be_captured: bool) -> None:
    pool = Pool(device)
    source, target = (empty(pool, (1024,), np.uint8) for _ in range(2))
    try:
        run = lambda: copy_on_device(device, source, target)  # noqa: E731
        assert 0 < DeviceClock(device).seconds(run, can_be_captured) < 1
    finally:
        pool.close()


@pytest.mark.gpu
def test_a_run_that_fails_while_it_is_captured_leaves_the_stream_usable(device: Device) -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) > 1:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        DeviceClock(device).seconds(run, can_be_captured=True)
    device.synchronize()
    assert DeviceClock(device).copy_rate(is_quick=True) > 0
