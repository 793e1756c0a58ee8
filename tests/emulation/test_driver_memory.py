"""Memory of the emulated driver: sizes, alignment, copies, and accesses out of bounds."""

from __future__ import annotations

import ctypes

import numpy as np

from cullama.emulation import device
from emulation.driver_calls import code, contents, cu, in_process, ok


def test_new_memory_is_aligned_and_holds_nan(gpu: device.EmulatedGpu) -> None:
    pointer = ok(cu.cuMemAlloc(20))
    assert int(pointer) % 256 == 0
    assert np.isnan(contents(pointer, 5)).all()


def test_the_memory_size_is_a_knob_that_free_memory_respects(gpu: device.EmulatedGpu) -> None:
    gpu.set("memory_bytes", 4096)
    pointer = ok(cu.cuMemAlloc(1000))
    assert ok(cu.cuMemGetInfo()) == (4096 - 1024, 4096)
    assert ok(cu.cuDeviceTotalMem(0)) == 4096
    assert code(cu.cuMemAlloc(3073)) == 2
    ok(cu.cuMemFree(pointer))
    assert ok(cu.cuMemGetInfo()) == (4096, 4096)
    assert gpu.calls("cuMemAlloc") == 2
    assert gpu.all_calls()["cuMemFree"] == 1


def test_memory_is_freed_once_and_by_its_own_pointer(gpu: device.EmulatedGpu) -> None:
    pointer = ok(cu.cuMemAlloc(512))
    assert code(cu.cuMemFree(cu.CUdeviceptr(int(pointer) + 256))) == 1
    assert (gpu.live_bytes(), gpu.live_allocations()) == (512, 1)
    ok(cu.cuMemFree(pointer))
    assert code(cu.cuMemFree(pointer)) == 1
    assert code(cu.cuMemFree(cu.CUdeviceptr(0))) == 0
    assert (gpu.live_bytes(), gpu.live_allocations()) == (0, 0)


def test_a_freed_address_is_never_reused(gpu: device.EmulatedGpu) -> None:
    seen = set()
    for _ in range(20):
        pointer = ok(cu.cuMemAlloc(4096))
        seen.add(int(pointer))
        ok(cu.cuMemFree(pointer))
    assert len(seen) == 20


def test_copies_stay_inside_one_live_allocation(gpu: device.EmulatedGpu) -> None:
    pointer = ok(cu.cuMemAlloc(100))
    host = np.zeros(200, np.uint8)
    assert code(cu.cuMemcpyHtoD(pointer, host.ctypes.data, 100)) == 0
    assert code(cu.cuMemcpyHtoD(pointer, host.ctypes.data, 101)) == 1
    assert code(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 101, 0)) == 1
    assert code(cu.cuMemsetD8Async(cu.CUdeviceptr(int(pointer) - 1), 0, 1, 0)) == 1
    assert code(cu.cuMemsetD32Async(cu.CUdeviceptr(int(pointer) + 2), 0, 1, 0)) == 1
    assert code(cu.cuMemcpyHtoD(host.ctypes.data, host.ctypes.data, 1)) == 1
    ok(cu.cuMemFree(pointer))
    assert code(cu.cuMemcpyDtoH(host.ctypes.data, pointer, 1)) == 1
    assert "not inside one live allocation" in gpu.report()


def test_a_write_past_the_end_is_found_when_the_memory_is_freed(gpu: device.EmulatedGpu) -> None:
    pointer = ok(cu.cuMemAlloc(100))
    ctypes.memset(int(pointer) + 100, 0, 1)
    assert code(cu.cuMemFree(pointer)) == 700
    assert "behind the end of an allocation of 100 bytes" in gpu.report()


def test_a_multiple_of_256_bytes_ends_at_a_guard_page() -> None:
    script = """
import ctypes
from cuda.bindings import driver as cu
cu.cuInit(0)
cu.cuCtxSetCurrent(cu.cuDevicePrimaryCtxRetain(0)[1])
pointer = int(cu.cuMemAlloc(768)[1])
ctypes.memset(pointer + 767, 0, 1)
print("inside", flush=True)
ctypes.memset(pointer + 768, 0, 1)
print("outside")
"""
    done = in_process(script)
    assert (done.returncode, done.stdout) == (-11, "inside\n")


def test_pinned_memory_is_freed_once(gpu: device.EmulatedGpu) -> None:
    pointer = ok(cu.cuMemHostAlloc(100, 0))
    assert gpu.pinned_allocations() == 1
    ok(cu.cuMemFreeHost(pointer))
    assert code(cu.cuMemFreeHost(pointer)) == 1
