"""Faults of the emulated driver: those that kernels cause, and those that tests inject."""

from __future__ import annotations

import pytest

from cullama.emulation import device
from emulation.driver_calls import allocated, code, cu, launch, ok, ptx, scale_function


def test_a_kernel_fault_is_reported_at_synchronisation_and_is_sticky(
    gpu: device.EmulatedGpu,
) -> None:
    function, pointer, stream = scale_function(), allocated([1]), ok(cu.cuStreamCreate(1))
    assert launch(function, pointer, 2, 2, stream) == 0
    assert code(cu.cuStreamSynchronize(stream)) == 700
    report = gpu.report()
    assert "scale" in report
    assert "thread (1, 0, 0)" in report
    for result in (
        cu.cuMemAlloc(16),
        cu.cuMemFree(pointer),
        cu.cuStreamSynchronize(stream),
        cu.cuModuleLoadData(ptx()),
        cu.cuDevicePrimaryCtxReset(0),
        cu.cuDevicePrimaryCtxRetain(0),
        cu.cuMemGetInfo(),
    ):
        assert code(result) == 700
    assert ok(cu.cuDeviceGetCount()) == 1


def test_blocking_launches_report_a_fault_themselves(
    gpu: device.EmulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, pointer = scale_function(), allocated([1])
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    assert launch(function, pointer, 2, 1) == 0
    assert gpu.calls("kernel") == 1
    assert launch(function, pointer, 2, 2) == 700


@pytest.mark.parametrize("sticky", [700, 702, 710, 714, 715, 716, 717, 718, 719])
def test_injected_kernel_faults_are_sticky(gpu: device.EmulatedGpu, sticky: int) -> None:
    gpu.fault(f"cuMemAlloc:2:{sticky}")
    ok(cu.cuMemAlloc(16))
    assert code(cu.cuMemAlloc(16)) == sticky
    assert code(cu.cuCtxSynchronize()) == sticky
    assert f"cuMemAlloc: injected error {sticky}" in gpu.report()


def test_injected_out_of_memory_is_not_sticky(gpu: device.EmulatedGpu) -> None:
    gpu.fault("cuMemAlloc:2:2,cuMemAlloc:4+:2")
    assert [code(cu.cuMemAlloc(16)) for _ in range(6)] == [0, 2, 0, 2, 2, 2]
    gpu.fault("")
    ok(cu.cuMemAlloc(16))


def test_faults_are_injected_into_any_call_and_into_kernels(gpu: device.EmulatedGpu) -> None:
    function, pointer = scale_function(), allocated([1])
    gpu.fault("*:3:801,kernel:2:719")
    stream = ok(cu.cuStreamCreate(1))
    assert launch(function, pointer, 2, 1, stream) == 0
    assert launch(function, pointer, 2, 1, stream) == 801
    assert launch(function, pointer, 2, 1, stream) == 0
    assert code(cu.cuStreamSynchronize(stream)) == 719


def test_a_malformed_fault_is_reported(
    gpu: device.EmulatedGpu, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu.fault("cuMemAlloc=3")
    assert "'cuMemAlloc=3' is not CALL:OCCURRENCE:CODE" in capfd.readouterr().err


def test_other_devices_work_after_a_fault(gpu: device.EmulatedGpu) -> None:
    gpu.set("devices", 2)
    gpu.fault("cuMemAlloc:1:719")
    assert code(cu.cuMemAlloc(16)) == 719
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(1))))
    ok(cu.cuMemAlloc(16))
