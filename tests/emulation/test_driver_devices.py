"""Symbols, devices and contexts of the emulated driver, called through unmodified cuda.bindings.

Errors are compared with the numbers that NVIDIA's documentation gives them.
"""

from __future__ import annotations

import ctypes

import pytest

from cullama.emulation import device
from emulation.driver_calls import code, cu, ok

# --- symbols --------------------------------------------------------------------------------------

# What the backend calls, with the versions that cuda.bindings asks for.
FUNCTIONS = """
cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetAttribute
cuDeviceTotalMem_v2 cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2
cuDevicePrimaryCtxReset_v2 cuCtxSetCurrent cuCtxGetCurrent cuCtxSynchronize cuMemGetInfo_v2
cuMemAlloc_v2 cuMemFree_v2 cuMemHostAlloc cuMemFreeHost cuMemcpyHtoD_v2 cuMemcpyDtoH_v2
cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 cuMemsetD8Async cuMemsetD32Async
cuStreamCreate cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery cuStreamWaitEvent
cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing cuGraphInstantiateWithFlags
cuGraphUpload cuGraphLaunch cuGraphExecDestroy cuGraphDestroy cuGraphGetNodes cuEventCreate
cuEventRecord cuEventQuery cuEventSynchronize cuEventElapsedTime_v2 cuEventDestroy_v2
cuModuleLoadDataEx cuModuleLoadData cuModuleUnload cuModuleGetFunction cuFuncGetAttribute
cuFuncSetAttribute cuLaunchKernel cuGetErrorName cuGetErrorString cuGetProcAddress_v2
"""


@pytest.mark.parametrize("symbol", FUNCTIONS.split())
def test_a_function_is_exported_and_found_by_its_name(gpu: device.EmulatedGpu, symbol: str) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    exported = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    for flags in (0, 2):  # 2: per-thread default streams
        assert cu.cuGetProcAddress(symbol.partition("_v")[0].encode(), 13000, flags)[1] == exported


def test_a_function_is_not_found_for_an_older_version(gpu: device.EmulatedGpu) -> None:
    library, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()

    def status(name: bytes, version: int) -> tuple[int, int]:
        result = ctypes.c_int()
        where = ctypes.byref(address)
        code = library.cuGetProcAddress_v2(name, where, version, 0, ctypes.byref(result))
        return code, result.value

    assert status(b"cuGraphUpload", 11010) == (0, 0)
    assert status(b"cuGraphUpload", 11000) == (500, 2)
    assert status(b"cuNothing", 13000) == (500, 1)


# --- devices and contexts -------------------------------------------------------------------------


def test_every_error_has_its_name_and_a_description(gpu: device.EmulatedGpu) -> None:
    for result in cu.CUresult:
        if 919 < result < 999:  # newer than CUDA 13.5
            continue
        assert ok(cu.cuGetErrorName(result)).decode() == result.name
        assert ok(cu.cuGetErrorString(result))


def test_each_device_has_its_name_and_capability(gpu: device.EmulatedGpu) -> None:
    gpu.set("devices", 2)
    gpu.set("device_names", "First;Second")
    gpu.set("compute_capabilities", "80;90")
    major = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    assert ok(cu.cuDeviceGetCount()) == 2
    second = ok(cu.cuDeviceGet(1))
    assert ok(cu.cuDeviceGetName(32, second)).partition(b"\0")[0] == b"Second"
    assert [ok(cu.cuDeviceGetAttribute(major, each)) for each in (0, 1)] == [8, 9]
    assert code(cu.cuDeviceGet(2)) == 101


def test_attributes_have_the_numbers_of_the_header(gpu: device.EmulatedGpu) -> None:
    def value(name: str) -> int:
        attribute = getattr(cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(ok(cu.cuDeviceGetAttribute(attribute, 0)))

    gpu.set("compute_capabilities", 86)
    gpu.set("multiprocessors", 7)
    assert value("WARP_SIZE") == 32
    assert value("MULTIPROCESSOR_COUNT") == 7
    assert value("MAX_THREADS_PER_BLOCK") == 1024
    assert value("MAX_GRID_DIM_Y") == 65535
    assert value("COMPUTE_CAPABILITY_MINOR") == 6
    assert value("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") == 99 * 1024
    assert value("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR") == 100 * 1024
    assert value("MAX_THREADS_PER_MULTIPROCESSOR") == 2048


def test_initialisation_without_devices_is_an_error(gpu: device.EmulatedGpu) -> None:
    gpu.set("devices", 0)
    assert code(cu.cuInit(0)) == 100


def test_without_a_context_calls_are_refused(gpu: device.EmulatedGpu) -> None:
    ok(cu.cuCtxSetCurrent(cu.CUcontext(0)))
    assert int(ok(cu.cuCtxGetCurrent())) == 0
    assert code(cu.cuMemAlloc(16)) == 201


def test_the_last_release_of_a_context_frees_everything(gpu: device.EmulatedGpu) -> None:
    ok(cu.cuMemAlloc(1000))
    ok(cu.cuMemHostAlloc(1000, 0))
    ok(cu.cuDevicePrimaryCtxRelease(0))
    assert (gpu.live_bytes(), gpu.pinned_allocations()) == (0, 0)
    assert code(cu.cuMemAlloc(16)) == 709
    assert code(cu.cuDevicePrimaryCtxRelease(0)) == 201
