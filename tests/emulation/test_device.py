"""The emulated driver, asked through unmodified cuda.bindings: what works, what is refused and how.

Errors are compared with the numbers that NVIDIA's documentation gives them. What needs a process
of its own (environments, forks, crashes) gets one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulation import device

if reason := device.missing():
    pytest.skip(reason, allow_module_level=True)

from cuda.bindings import driver as cu

TESTS = Path(__file__).resolve().parents[1]

SCALE = """
.version {version}
.target {target}
.address_size 64

// data[i] *= factor for i < count; .entry in_a_comment(
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
.maxntid 256, 1, 1
{{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    mul.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}}

.visible .entry uses_shared()
{{
    .shared .align 4 .b8 room[1024];
    .reg .b32 %r<2>;
    mov.u32 %r1, 1;
    st.shared.u32 [room], %r1;
    ret;
}}
"""


def ptx(version: str = "8.0", target: str = "sm_80") -> bytes:
    return SCALE.format(version=version, target=target).encode() + b"\0"


def code(result: Any) -> int:
    return int(result[0])


def ok(result: Any) -> Any:
    assert code(result) == 0, cu.CUresult(result[0]).name
    return result[1] if len(result) == 2 else result[1:]


@pytest.fixture(scope="module")
def process() -> device.Device:
    return device.preload()


@pytest.fixture
def gpu(process: device.Device) -> Iterator[device.Device]:
    """The device as a program finds it: nothing allocated, device 0's context current."""
    with process.set_aside():
        ok(cu.cuInit(0))
        ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        yield process


def allocated(values: Any) -> Any:
    """Device memory with these values in it."""
    array = np.asarray(values, np.float32)
    pointer = ok(cu.cuMemAlloc(array.nbytes))
    ok(cu.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
    return pointer


def pinned(size: int) -> NDArray[np.float32]:
    """Pinned host memory for `size` floats."""
    pointer = ok(cu.cuMemHostAlloc(size * 4, 0))
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,))


def contents(pointer: Any, size: int) -> list[float]:
    host = np.zeros(size, np.float32)
    ok(cu.cuMemcpyDtoH(host.ctypes.data, pointer, host.nbytes))
    return [float(value) for value in host]


def scale_function(image: bytes | None = None) -> Any:
    module = ok(cu.cuModuleLoadData(image or ptx()))
    return ok(cu.cuModuleGetFunction(module, b"scale"))


def launch(
    function: Any,
    pointer: Any,
    factor: float,
    count: int,
    stream: Any = 0,
    *,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] = (32, 1, 1),
    shared: int = 0,
) -> int:
    values = (ctypes.c_uint64(int(pointer)), ctypes.c_float(factor), ctypes.c_uint32(count))
    addresses = (ctypes.c_void_p * 3)(*[ctypes.addressof(value) for value in values])
    where = ctypes.addressof(addresses)
    return code(cu.cuLaunchKernel(function, *grid, *block, shared, stream, where, 0))


def fill(pointer: Any, value: float, count: int, stream: Any) -> int:
    bits = int(np.float32(value).view(np.uint32))
    return code(cu.cuMemsetD32Async(pointer, bits, count, stream))


def in_process(script: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process that finds the emulated GPU as any program would."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **device.environment(**environment), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---- Symbols --------------------------------------------------------------------------------

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
def test_a_function_is_exported_and_found_by_its_name(gpu: device.Device, symbol: str) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    exported = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    for flags in (0, 2):  # 2: per-thread default streams
        assert cu.cuGetProcAddress(symbol.partition("_v")[0].encode(), 13000, flags)[1] == exported


def test_a_function_is_not_found_by_what_is_older_than_it(gpu: device.Device) -> None:
    library, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()

    def status(name: bytes, version: int) -> tuple[int, int]:
        result = ctypes.c_int()
        where = ctypes.byref(address)
        code = library.cuGetProcAddress_v2(name, where, version, 0, ctypes.byref(result))
        return code, result.value

    assert status(b"cuGraphUpload", 11010) == (0, 0)
    assert status(b"cuGraphUpload", 11000) == (500, 2)
    assert status(b"cuNothing", 13000) == (500, 1)


# ---- Devices and contexts -------------------------------------------------------------------


def test_every_error_has_its_name_and_a_description(gpu: device.Device) -> None:
    for result in cu.CUresult:
        if 919 < result < 999:  # newer than CUDA 13.5
            continue
        assert ok(cu.cuGetErrorName(result)).decode() == result.name
        assert ok(cu.cuGetErrorString(result))


def test_devices_have_names_and_capabilities_of_their_own(gpu: device.Device) -> None:
    gpu.set("devices", 2)
    gpu.set("device_names", "First;Second")
    gpu.set("compute_capabilities", "80;90")
    major = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    assert ok(cu.cuDeviceGetCount()) == 2
    second = ok(cu.cuDeviceGet(1))
    assert ok(cu.cuDeviceGetName(32, second)).partition(b"\0")[0] == b"Second"
    assert [ok(cu.cuDeviceGetAttribute(major, each)) for each in (0, 1)] == [8, 9]
    assert code(cu.cuDeviceGet(2)) == 101


def test_attributes_have_the_numbers_of_the_header(gpu: device.Device) -> None:
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


def test_without_devices_initialisation_says_so(gpu: device.Device) -> None:
    gpu.set("devices", 0)
    assert code(cu.cuInit(0)) == 100


def test_without_a_context_calls_are_refused(gpu: device.Device) -> None:
    ok(cu.cuCtxSetCurrent(cu.CUcontext(0)))
    assert int(ok(cu.cuCtxGetCurrent())) == 0
    assert code(cu.cuMemAlloc(16)) == 201


def test_releasing_the_last_hold_frees_everything(gpu: device.Device) -> None:
    ok(cu.cuMemAlloc(1000))
    ok(cu.cuMemHostAlloc(1000, 0))
    ok(cu.cuDevicePrimaryCtxRelease(0))
    assert (gpu.live_bytes(), gpu.pinned_allocations()) == (0, 0)
    assert code(cu.cuMemAlloc(16)) == 709
    assert code(cu.cuDevicePrimaryCtxRelease(0)) == 201


# ---- Memory ---------------------------------------------------------------------------------


def test_new_memory_is_aligned_and_holds_nan(gpu: device.Device) -> None:
    pointer = ok(cu.cuMemAlloc(20))
    assert int(pointer) % 256 == 0
    assert np.isnan(contents(pointer, 5)).all()


def test_the_memory_size_is_a_knob_and_what_is_free_is_true_to_it(gpu: device.Device) -> None:
    gpu.set("memory_bytes", 4096)
    pointer = ok(cu.cuMemAlloc(1000))
    assert ok(cu.cuMemGetInfo()) == (4096 - 1024, 4096)
    assert ok(cu.cuDeviceTotalMem(0)) == 4096
    assert code(cu.cuMemAlloc(3073)) == 2
    ok(cu.cuMemFree(pointer))
    assert ok(cu.cuMemGetInfo()) == (4096, 4096)
    assert gpu.calls("cuMemAlloc") == 2
    assert gpu.all_calls()["cuMemFree"] == 1


def test_memory_is_freed_once_and_by_its_own_pointer(gpu: device.Device) -> None:
    pointer = ok(cu.cuMemAlloc(512))
    assert code(cu.cuMemFree(cu.CUdeviceptr(int(pointer) + 256))) == 1
    assert (gpu.live_bytes(), gpu.live_allocations()) == (512, 1)
    ok(cu.cuMemFree(pointer))
    assert code(cu.cuMemFree(pointer)) == 1
    assert code(cu.cuMemFree(cu.CUdeviceptr(0))) == 0
    assert (gpu.live_bytes(), gpu.live_allocations()) == (0, 0)


def test_a_freed_address_never_comes_back(gpu: device.Device) -> None:
    seen = set()
    for _ in range(20):
        pointer = ok(cu.cuMemAlloc(4096))
        seen.add(int(pointer))
        ok(cu.cuMemFree(pointer))
    assert len(seen) == 20


def test_copies_stay_inside_one_live_allocation(gpu: device.Device) -> None:
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


def test_writing_behind_the_end_shows_at_the_latest_when_it_is_freed(gpu: device.Device) -> None:
    pointer = ok(cu.cuMemAlloc(100))
    ctypes.memset(int(pointer) + 100, 0, 1)
    assert code(cu.cuMemFree(pointer)) == 700
    assert "behind the end of an allocation of 100 bytes" in gpu.report()


def test_a_multiple_of_256_bytes_ends_at_a_page_that_nobody_may_touch() -> None:
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


def test_pinned_memory_is_freed_once(gpu: device.Device) -> None:
    pointer = ok(cu.cuMemHostAlloc(100, 0))
    assert gpu.pinned_allocations() == 1
    ok(cu.cuMemFreeHost(pointer))
    assert code(cu.cuMemFreeHost(pointer)) == 1


# ---- Streams and events ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ["lazy", "random", "issued"])
def test_a_missing_synchronisation_shows_as_unwritten_data(gpu: device.Device, order: str) -> None:
    gpu.streams(order)
    stream = ok(cu.cuStreamCreate(1))
    pointer, host = allocated([1, 2]), pinned(2)
    host[:] = -1
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 8, stream))
    assert host.tolist() == [-1, -1]
    ok(cu.cuStreamSynchronize(stream))
    assert host.tolist() == [1, 2]


def test_eager_streams_hide_it(gpu: device.Device) -> None:
    gpu.streams("eager")
    pointer, host = allocated([1, 2]), pinned(2)
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 8, ok(cu.cuStreamCreate(1))))
    assert host.tolist() == [1, 2]


def test_staging_memory_that_is_used_again_too_early_shows(gpu: device.Device) -> None:
    stream, pointer, staging = ok(cu.cuStreamCreate(1)), allocated([0, 0]), pinned(2)
    staging[:] = 1
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 8, stream))
    staging[:] = 2
    ok(cu.cuStreamSynchronize(stream))
    assert contents(pointer, 2) == [2, 2]


def test_pageable_memory_is_read_at_the_call(gpu: device.Device) -> None:
    stream, pointer, staging = ok(cu.cuStreamCreate(1)), allocated([0, 0]), np.ones(2, np.float32)
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 8, stream))
    staging[:] = 2
    ok(cu.cuStreamSynchronize(stream))
    assert contents(pointer, 2) == [1, 1]


def test_memory_is_copied_between_allocations_in_order(gpu: device.Device) -> None:
    stream, source, target = ok(cu.cuStreamCreate(1)), allocated([1, 2]), allocated([0, 0])
    assert fill(source, 7, 1, stream) == 0
    ok(cu.cuMemcpyDtoDAsync(target, source, 8, stream))
    assert fill(source, 8, 2, stream) == 0
    ok(cu.cuStreamSynchronize(stream))
    assert contents(target, 2) == [7, 2]


def copied_from_another_stream(waits: bool) -> list[float]:
    """One stream writes, another copies what was written, after an event or just like that."""
    writer, reader, event = (
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuEventCreate(0)),
    )
    source, target = allocated([1, 2]), allocated([0, 0])
    assert fill(source, 7, 2, writer) == 0
    ok(cu.cuEventRecord(event, writer))
    if waits:
        ok(cu.cuStreamWaitEvent(reader, event, 0))
    ok(cu.cuMemcpyDtoDAsync(target, source, 8, reader))
    ok(cu.cuStreamSynchronize(reader))
    return contents(target, 2)


@pytest.mark.parametrize("order", ["lazy", "random", "issued", "eager"])
def test_an_event_orders_two_streams(gpu: device.Device, order: str) -> None:
    for seed in range(10):
        gpu.streams(order, seed)
        assert copied_from_another_stream(waits=True) == [7, 7]


def test_a_missing_wait_for_an_event_shows(gpu: device.Device) -> None:
    assert copied_from_another_stream(waits=False) == [1, 2]
    gpu.streams("issued")
    assert copied_from_another_stream(waits=False) == [7, 7]


def test_a_seed_stands_for_one_order_and_seeds_differ(gpu: device.Device) -> None:
    def run(seed: int) -> list[float]:
        gpu.streams("random", seed)
        return copied_from_another_stream(waits=False)

    results = [run(seed) for seed in range(20)]
    assert {tuple(result) for result in results} == {(1, 2), (7, 7)}
    assert results == [run(seed) for seed in range(20)]


def test_a_wait_counts_from_the_record_before_it(gpu: device.Device) -> None:
    writer, reader, event = (
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuEventCreate(0)),
    )
    source, target = allocated([1]), allocated([0])
    ok(cu.cuStreamWaitEvent(reader, event, 0))  # never recorded: nothing to wait for
    ok(cu.cuEventRecord(event, writer))
    ok(cu.cuStreamWaitEvent(reader, event, 0))
    assert fill(source, 7, 1, writer) == 0
    ok(cu.cuEventRecord(event, writer))  # too late for the wait above
    ok(cu.cuMemcpyDtoDAsync(target, source, 4, reader))
    ok(cu.cuStreamSynchronize(reader))
    assert contents(target, 1) == [1]


@pytest.mark.parametrize(("flags", "seen"), [(0, 7), (1, 1)])
def test_a_blocking_copy_waits_for_blocking_streams_only(
    gpu: device.Device, flags: int, seen: float
) -> None:
    pointer = allocated([1])
    assert fill(pointer, 7, 1, ok(cu.cuStreamCreate(flags))) == 0
    assert contents(pointer, 1) == [seen]
    ok(cu.cuCtxSynchronize())
    assert contents(pointer, 1) == [7]


def test_a_blocking_stream_comes_after_the_legacy_stream(gpu: device.Device) -> None:
    stream, source, target = ok(cu.cuStreamCreate(0)), allocated([1]), allocated([0])
    assert fill(source, 7, 1, 0) == 0
    ok(cu.cuMemcpyDtoDAsync(target, source, 4, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert contents(target, 1) == [7]


def test_a_query_says_not_ready_before_it_says_ready(gpu: device.Device) -> None:
    gpu.set("not_ready", 2)
    stream, event, pointer = ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(0)), allocated([1])
    assert code(cu.cuEventQuery(event)) == 0
    assert fill(pointer, 7, 1, stream) == 0
    ok(cu.cuEventRecord(event, stream))
    assert [code(cu.cuEventQuery(event)) for _ in range(4)] == [600, 600, 0, 0]
    assert contents(pointer, 1) == [7]
    assert fill(pointer, 8, 1, stream) == 0
    assert [code(cu.cuStreamQuery(stream)) for _ in range(4)] == [600, 600, 0, 0]
    assert fill(pointer, 9, 1, ok(cu.cuStreamCreate(0))) == 0
    assert [code(cu.cuStreamQuery(cu.CUstream(0))) for _ in range(4)] == [600, 600, 0, 0]
    assert contents(pointer, 1) == [9]
    gpu.set("not_ready", -1)
    ok(cu.cuEventRecord(event, stream))
    assert {code(cu.cuEventQuery(event)) for _ in range(10)} == {600}
    ok(cu.cuEventSynchronize(event))
    assert code(cu.cuEventQuery(event)) == 0


def test_the_time_between_events_is_known_when_both_are_done(gpu: device.Device) -> None:
    stream = ok(cu.cuStreamCreate(1))
    start, end, untimed = (ok(cu.cuEventCreate(flags)) for flags in (0, 0, 2))
    assert code(cu.cuEventElapsedTime(start, end)) == 400
    for event in (start, end, untimed):
        ok(cu.cuEventRecord(event, stream))
    assert code(cu.cuEventElapsedTime(start, end)) == 600
    ok(cu.cuStreamSynchronize(stream))
    assert ok(cu.cuEventElapsedTime(start, end)) >= 0
    assert code(cu.cuEventElapsedTime(start, untimed)) == 400


def test_a_destroyed_stream_takes_no_work_but_does_what_it_has(gpu: device.Device) -> None:
    stream, event, pointer = ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(0)), allocated([1])
    assert fill(pointer, 7, 1, stream) == 0
    ok(cu.cuStreamDestroy(stream))
    ok(cu.cuEventDestroy(event))
    assert fill(pointer, 8, 1, stream) == 400
    assert code(cu.cuStreamSynchronize(stream)) == 400
    assert code(cu.cuEventRecord(event, 0)) == 400
    ok(cu.cuCtxSynchronize())
    assert contents(pointer, 1) == [7]


def test_freeing_memory_waits_for_the_work_that_uses_it(gpu: device.Device) -> None:
    pointer, host = allocated([1]), pinned(1)
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 4, ok(cu.cuStreamCreate(1))))
    ok(cu.cuMemFree(pointer))
    assert host.tolist() == [1]


# ---- Capture and graphs ---------------------------------------------------------------------

GLOBAL = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
THREAD_LOCAL = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
RELAXED = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


def capturing(mode: Any = THREAD_LOCAL, flags: int = 1) -> Any:
    """A stream that captures."""
    stream = ok(cu.cuStreamCreate(flags))
    ok(cu.cuStreamBeginCapture(stream, mode))
    return stream


def replay(graph: Any, stream: Any, times: int = 1) -> int:
    execution = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphUpload(execution, stream))
    for _ in range(times):
        ok(cu.cuGraphLaunch(execution, stream))
    result = code(cu.cuStreamSynchronize(stream))
    if result == 0:
        ok(cu.cuGraphExecDestroy(execution))
        assert code(cu.cuGraphExecDestroy(execution)) == 1
    return result


def test_a_graph_repeats_what_was_captured_with_its_arguments(gpu: device.Device) -> None:
    function, pointer = scale_function(), allocated([1, 2, 3])
    stream = capturing()
    assert launch(function, pointer, 2, 3, stream) == 0
    assert launch(function, pointer, 5, 1, stream) == 0
    status = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    assert ok(cu.cuStreamIsCapturing(stream)) == status
    graph = ok(cu.cuStreamEndCapture(stream))
    assert ok(cu.cuGraphGetNodes(graph))[1] == 2
    assert contents(pointer, 3) == [1, 2, 3]
    assert replay(graph, stream, times=2) == 0
    assert contents(pointer, 3) == [100, 8, 12]
    assert gpu.calls("kernel") == 4
    ok(cu.cuGraphDestroy(graph))
    assert code(cu.cuGraphDestroy(graph)) == 1


def test_a_captured_copy_reads_the_staging_memory_at_each_replay(gpu: device.Device) -> None:
    pointer, staging = allocated([0]), pinned(1)
    stream = capturing()
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 4, stream))
    graph = ok(cu.cuStreamEndCapture(stream))
    for value in (3, 4):
        staging[:] = value
        assert replay(graph, stream) == 0
        assert contents(pointer, 1) == [value]


def test_a_destroyed_graph_outlives_itself_in_what_was_instantiated(gpu: device.Device) -> None:
    pointer, stream = allocated([0]), capturing()
    assert fill(pointer, 7, 1, stream) == 0
    graph = ok(cu.cuStreamEndCapture(stream))
    execution = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphDestroy(graph))
    ok(cu.cuGraphLaunch(execution, stream))
    ok(cu.cuGraphExecDestroy(execution))
    ok(cu.cuStreamSynchronize(stream))
    assert contents(pointer, 1) == [7]


FORBIDDEN: dict[str, Callable[[Any], Any]] = {
    "cuMemAlloc": lambda stream: cu.cuMemAlloc(16),
    "cuMemFree": lambda stream: cu.cuMemFree(cu.CUdeviceptr(256)),
    "cuMemHostAlloc": lambda stream: cu.cuMemHostAlloc(16, 0),
    "cuModuleLoadData": lambda stream: cu.cuModuleLoadData(ptx()),
    "cuCtxSynchronize": lambda stream: cu.cuCtxSynchronize(),
    "cuStreamSynchronize": lambda stream: cu.cuStreamSynchronize(stream),
    "cuStreamQuery": lambda stream: cu.cuStreamQuery(stream),
}


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL])
@pytest.mark.parametrize("call", FORBIDDEN)
def test_what_capture_forbids_spoils_it(gpu: device.Device, call: str, mode: Any) -> None:
    stream = capturing(mode)
    assert code(FORBIDDEN[call](stream)) == 900
    pointer = cu.CUdeviceptr(0)
    assert code(cu.cuMemsetD8Async(pointer, 0, 1, stream)) == 1
    invalidated = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    assert ok(cu.cuStreamIsCapturing(stream)) == invalidated
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamSynchronize(stream)) == 0


def test_work_for_a_spoilt_capture_is_refused(gpu: device.Device) -> None:
    pointer, stream = allocated([0]), capturing()
    assert code(cu.cuMemAlloc(16)) == 900
    assert fill(pointer, 7, 1, stream) == 901


def test_relaxed_capture_lets_memory_be_allocated(gpu: device.Device) -> None:
    stream = capturing(RELAXED)
    ok(cu.cuMemAlloc(16))
    assert code(cu.cuStreamSynchronize(stream)) == 900


def test_blocking_copies_are_forbidden_too(gpu: device.Device) -> None:
    pointer, host = allocated([0]), np.zeros(1, np.float32)
    for flags, expected in ((1, 900), (0, 906)):
        stream = capturing(flags=flags)
        assert code(cu.cuMemcpyHtoD(pointer, host.ctypes.data, 4)) == expected
        assert code(cu.cuStreamEndCapture(stream)) == 901


def test_the_legacy_stream_cannot_be_used_beside_a_blocking_stream_that_captures(
    gpu: device.Device,
) -> None:
    pointer, stream = allocated([0]), capturing(flags=0)
    assert fill(pointer, 7, 1, 0) == 906
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamBeginCapture(cu.CUstream(0), THREAD_LOCAL)) == 900


def test_pageable_memory_cannot_be_captured(gpu: device.Device) -> None:
    pointer, host, stream = allocated([0]), np.zeros(1, np.float32), capturing()
    assert code(cu.cuMemcpyHtoDAsync(pointer, host.ctypes.data, 4, stream)) == 900
    assert code(cu.cuStreamEndCapture(stream)) == 901


@pytest.mark.parametrize(("mode", "expected"), [(GLOBAL, 900), (THREAD_LOCAL, 0), (RELAXED, 0)])
def test_only_global_capture_binds_other_threads(
    gpu: device.Device, mode: Any, expected: int
) -> None:
    context, results = ok(cu.cuCtxGetCurrent()), []
    stream = capturing(mode)

    def allocate() -> None:
        ok(cu.cuCtxSetCurrent(context))
        results.append(code(cu.cuMemAlloc(16)))
        results.append(code(cu.cuStreamEndCapture(stream)))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert results[0] == expected
    assert results[1] == (0 if mode == RELAXED else 908)


def test_a_graph_spans_streams_that_events_join(gpu: device.Device) -> None:
    source, target = allocated([1, 2]), allocated([0, 0])
    side, forked, joined = (
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuEventCreate(2)),
        ok(cu.cuEventCreate(2)),
    )
    stream = capturing()
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert fill(source, 7, 2, side) == 0
    ok(cu.cuEventRecord(joined, side))
    ok(cu.cuStreamWaitEvent(stream, joined, 0))
    ok(cu.cuMemcpyDtoDAsync(target, source, 8, stream))
    assert code(cu.cuEventQuery(joined)) == 907
    graph = ok(cu.cuStreamEndCapture(stream))
    assert ok(cu.cuGraphGetNodes(graph))[1] == 2
    for seed in range(5):
        gpu.streams("random", seed)
        assert fill(source, 1, 2, stream) == 0
        assert replay(graph, stream) == 0
        assert contents(target, 2) == [7, 7]
    none = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    assert ok(cu.cuStreamIsCapturing(side)) == none


def test_a_branch_of_a_graph_that_misses_its_wait_runs_too_early(gpu: device.Device) -> None:
    source, target = allocated([1]), allocated([0])
    side, forked, joined = (
        ok(cu.cuStreamCreate(1)),
        ok(cu.cuEventCreate(2)),
        ok(cu.cuEventCreate(2)),
    )
    stream = capturing()
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert fill(source, 7, 1, side) == 0
    ok(cu.cuMemcpyDtoDAsync(target, source, 4, stream))  # should have waited for `joined`
    ok(cu.cuEventRecord(joined, side))
    ok(cu.cuStreamWaitEvent(stream, joined, 0))
    assert replay(ok(cu.cuStreamEndCapture(stream)), stream) == 0
    assert contents(target, 1) == [1]


def test_a_stream_that_forked_has_to_be_joined(gpu: device.Device) -> None:
    pointer, side, forked = allocated([0]), ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(2))
    stream = capturing()
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert fill(pointer, 7, 1, side) == 0
    assert code(cu.cuStreamEndCapture(stream)) == 904


def test_capture_ends_where_it_began(gpu: device.Device) -> None:
    side, forked = ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(2))
    stream = capturing()
    assert code(cu.cuStreamBeginCapture(stream, THREAD_LOCAL)) == 401
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert code(cu.cuStreamEndCapture(side)) == 903
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamEndCapture(stream)) == 401


def test_captures_keep_to_themselves(gpu: device.Device) -> None:
    outside = ok(cu.cuEventCreate(2))
    ok(cu.cuEventRecord(outside, ok(cu.cuStreamCreate(1))))
    stream = capturing()
    assert code(cu.cuStreamWaitEvent(stream, outside, 0)) == 905
    assert code(cu.cuStreamEndCapture(stream)) == 901
    one, other, event = capturing(), capturing(), ok(cu.cuEventCreate(2))
    ok(cu.cuEventRecord(event, one))
    assert code(cu.cuStreamWaitEvent(other, event, 0)) == 902


@pytest.mark.parametrize("node", ["copy", "kernel"])
def test_a_graph_whose_memory_was_freed_accesses_it_illegally(
    gpu: device.Device, node: str
) -> None:
    function, pointer, stream = scale_function(), allocated([1]), capturing()
    if node == "copy":
        assert fill(pointer, 7, 1, stream) == 0
    else:
        assert launch(function, pointer, 2, 1, stream) == 0
    graph = ok(cu.cuStreamEndCapture(stream))
    ok(cu.cuMemFree(pointer))
    assert replay(graph, stream) == 700
    assert code(cu.cuMemAlloc(16)) == 700


# ---- Modules and launches -------------------------------------------------------------------


def load_with_log(image: bytes) -> tuple[int, str]:
    """The result of loading, and what the driver wrote into the error log."""
    log = bytes(512)  # the bindings take nothing else, and the driver writes into it
    options = [
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER,
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    result = code(cu.cuModuleLoadDataEx(image, len(options), options, [log, len(log)]))
    return result, log.partition(b"\0")[0].decode()


@pytest.mark.parametrize(
    ("driver", "version", "expected"),
    [
        (11080, "7.8", 0),
        (11080, "8.0", 222),
        (12000, "8.0", 0),
        (12060, "8.5", 0),
        (12060, "8.6", 222),
        (12090, "8.8", 0),
        (12090, "9.0", 222),
        (13000, "9.0", 0),
        (13000, "9.1", 222),
    ],
)
def test_ptx_that_is_newer_than_the_driver_is_refused(
    gpu: device.Device, driver: int, version: str, expected: int
) -> None:
    gpu.set("driver_version", driver)
    result, log = load_with_log(ptx(version=version))
    assert result == expected
    assert (f"Unsupported .version {version}; current version is" in log) == (expected == 222)
    assert ok(cu.cuDriverGetVersion()) == driver


@pytest.mark.parametrize(
    ("capability", "target", "complaint"),
    [
        (80, "sm_80", ""),
        (120, "sm_80", ""),
        (80, "sm_90", "higher than default SM version"),
        (90, "sm_90a", ""),
        (100, "sm_90a", "cannot be compiled to future architecture"),
        (103, "sm_100f", ""),
        (120, "sm_100f", "cannot be compiled to future architecture"),
    ],
)
def test_ptx_for_another_device_is_refused(
    gpu: device.Device, capability: int, target: str, complaint: str
) -> None:
    gpu.set("compute_capabilities", capability)
    result, log = load_with_log(ptx(target=target))
    assert result == (218 if complaint else 0)
    assert complaint in log
    assert complaint in gpu.report()


@pytest.mark.parametrize(
    ("image", "expected", "complaint"),
    [
        (b"\0", 218, "Missing .version"),
        (b"// .version 8.0\n.target sm_80\n\0", 218, "Missing .version"),
        (b".version 8.0\n\0", 218, "Missing .target"),
        (b".version 8.0\n.target sm_80\n\0", 218, "no .entry"),
        (ptx()[:-4] + b"\0", 218, "syntax error"),
        (ptx()[:-1] + b"garbage\0", 218, "Parsing error near 'garbage'"),
        (b"\x7fELF" + bytes(60), 209, "only PTX"),
    ],
)
def test_what_is_not_ptx_is_refused(
    gpu: device.Device, image: bytes, expected: int, complaint: str
) -> None:
    result, log = load_with_log(image)
    assert result == expected
    assert complaint in log


def test_an_image_without_a_nul_is_refused_not_read_past_its_memory(gpu: device.Device) -> None:
    text = ptx()[:-1]
    pages = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    end = begin + 2 * mmap.PAGESIZE
    ctypes.memmove(end - len(text), text, len(text))
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(end, mmap.PAGESIZE, 0) == 0
    assert code(cu.cuModuleLoadData(end - len(text))) == 218
    assert "does not end with a NUL" in gpu.report()


def test_an_instruction_that_the_emulator_does_not_know_is_named(gpu: device.Device) -> None:
    strange = ptx().replace(b"mul.f32", b"mul.f31")
    module = ok(cu.cuModuleLoadData(strange))
    assert code(cu.cuModuleGetFunction(module, b"scale")) == 218
    assert "mul.f31" in gpu.report()


def test_functions_are_found_by_name_until_the_module_is_unloaded(gpu: device.Device) -> None:
    module = ok(cu.cuModuleLoadData(ptx()))
    for missing in (b"scal", b"scale2", b"in_a_comment"):
        assert code(cu.cuModuleGetFunction(module, missing)) == 500
    function = ok(cu.cuModuleGetFunction(module, b"scale"))
    assert int(ok(cu.cuModuleGetFunction(module, b"scale"))) == int(function)
    ok(cu.cuModuleUnload(module))
    assert code(cu.cuModuleUnload(module)) == 400
    assert code(cu.cuModuleGetFunction(module, b"scale")) == 400
    assert launch(function, allocated([1]), 2, 1) == 400


def attribute_of(function: Any, name: str) -> int:
    attribute = getattr(cu.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
    return int(ok(cu.cuFuncGetAttribute(attribute, function)))


def test_functions_have_attributes(gpu: device.Device) -> None:
    module = ok(cu.cuModuleLoadData(ptx()))
    scale = ok(cu.cuModuleGetFunction(module, b"scale"))
    shared = ok(cu.cuModuleGetFunction(module, b"uses_shared"))
    assert attribute_of(scale, "MAX_THREADS_PER_BLOCK") == 256
    assert attribute_of(shared, "MAX_THREADS_PER_BLOCK") == 1024
    assert attribute_of(shared, "SHARED_SIZE_BYTES") == 1024
    assert attribute_of(shared, "MAX_DYNAMIC_SHARED_SIZE_BYTES") == 47 * 1024
    assert attribute_of(scale, "LOCAL_SIZE_BYTES") == 0
    assert attribute_of(scale, "PTX_VERSION") == 80
    assert attribute_of(scale, "BINARY_VERSION") == 90


def test_more_than_48_kib_of_shared_memory_has_to_be_asked_for(gpu: device.Device) -> None:
    gpu.set("compute_capabilities", 80)
    name = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    function, pointer = scale_function(), allocated([1])
    assert launch(function, pointer, 2, 1, shared=48 * 1024 + 1) == 1
    assert "dynamic shared memory" in gpu.report()
    assert code(cu.cuFuncSetAttribute(function, name, 163 * 1024 + 1)) == 1
    ok(cu.cuFuncSetAttribute(function, name, 163 * 1024))
    assert launch(function, pointer, 2, 1, shared=163 * 1024) == 0
    assert contents(pointer, 1) == [2]


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0, 1, 1), (32, 1, 1)),
        ((1, 65536, 1), (32, 1, 1)),
        ((1, 1, 65536), (32, 1, 1)),
        ((1, 1, 1), (0, 1, 1)),
        ((1, 1, 1), (257, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (1, 1025, 1)),
    ],
)
def test_launches_of_impossible_sizes_are_refused(
    gpu: device.Device, grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    assert launch(scale_function(), allocated([1]), 2, 1, grid=grid, block=block) == 1


def test_arguments_are_needed_and_copied_at_the_call(gpu: device.Device) -> None:
    function, pointer = scale_function(), allocated([1])
    assert code(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, 0, 0)) == 1
    where, factor, count = ctypes.c_uint64(int(pointer)), ctypes.c_float(3), ctypes.c_uint32(1)
    values = (where, factor, count)
    addresses = (ctypes.c_void_p * 3)(*[ctypes.addressof(value) for value in values])
    ok(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(addresses), 0))
    factor.value = 100
    assert contents(pointer, 1) == [3]
    addresses[1] = None
    result = cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, ctypes.addressof(addresses), 0)
    assert code(result) == 1
    assert "argument 1 of 3 is missing" in gpu.report()


def test_kernels_reach_pinned_memory_but_no_other_host_memory(gpu: device.Device) -> None:
    function, host = scale_function(), pinned(1)
    host[:] = 3
    assert launch(function, host.ctypes.data, 2, 1) == 0
    ok(cu.cuCtxSynchronize())
    assert host.tolist() == [6]
    pageable = np.ones(1, np.float32)
    assert launch(function, pageable.ctypes.data, 2, 1) == 0
    assert code(cu.cuCtxSynchronize()) == 700


@pytest.mark.parametrize("order", device.BLOCK_ORDERS)
def test_kernels_run_in_any_order_of_blocks(gpu: device.Device, order: str) -> None:
    gpu.schedule(order, seed=3)
    pointer = allocated(range(1000))
    assert launch(scale_function(), pointer, 2, 1000, grid=(8, 1, 1), block=(128, 1, 1)) == 0
    assert contents(pointer, 1000) == [2 * i for i in range(1000)]


# ---- Faults ---------------------------------------------------------------------------------


def test_a_kernel_fault_is_told_at_the_synchronisation_and_is_for_ever(gpu: device.Device) -> None:
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


def test_blocking_launches_tell_it_themselves(
    gpu: device.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, pointer = scale_function(), allocated([1])
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    assert launch(function, pointer, 2, 1) == 0
    assert gpu.calls("kernel") == 1
    assert launch(function, pointer, 2, 2) == 700


@pytest.mark.parametrize("sticky", [700, 702, 710, 714, 715, 716, 717, 718, 719])
def test_an_injected_fault_of_a_kernels_kind_is_for_ever(gpu: device.Device, sticky: int) -> None:
    gpu.fault(f"cuMemAlloc:2:{sticky}")
    ok(cu.cuMemAlloc(16))
    assert code(cu.cuMemAlloc(16)) == sticky
    assert code(cu.cuCtxSynchronize()) == sticky
    assert f"cuMemAlloc: injected error {sticky}" in gpu.report()


def test_an_injected_lack_of_memory_passes(gpu: device.Device) -> None:
    gpu.fault("cuMemAlloc:2:2,cuMemAlloc:4+:2")
    assert [code(cu.cuMemAlloc(16)) for _ in range(6)] == [0, 2, 0, 2, 2, 2]
    gpu.fault("")
    ok(cu.cuMemAlloc(16))


def test_faults_strike_any_call_and_the_execution_of_kernels(gpu: device.Device) -> None:
    function, pointer = scale_function(), allocated([1])
    gpu.fault("*:3:801,kernel:2:719")
    stream = ok(cu.cuStreamCreate(1))
    assert launch(function, pointer, 2, 1, stream) == 0
    assert launch(function, pointer, 2, 1, stream) == 801
    assert launch(function, pointer, 2, 1, stream) == 0
    assert code(cu.cuStreamSynchronize(stream)) == 719


def test_a_fault_that_is_not_understood_is_mentioned(
    gpu: device.Device, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu.fault("cuMemAlloc=3")
    assert "'cuMemAlloc=3' is not CALL:OCCURRENCE:CODE" in capfd.readouterr().err


def test_other_devices_live_on_after_a_fault(gpu: device.Device) -> None:
    gpu.set("devices", 2)
    gpu.fault("cuMemAlloc:1:719")
    assert code(cu.cuMemAlloc(16)) == 719
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(1))))
    ok(cu.cuMemAlloc(16))


# ---- Knobs and environments -----------------------------------------------------------------


def test_every_knob_is_known_and_no_other(gpu: device.Device) -> None:
    for name in device.KNOBS:
        gpu.set(name, gpu.get(name))
    with pytest.raises(ValueError, match="no such knob: memory"):
        gpu.set("memory", 1)
    with pytest.raises(ValueError, match="no such knobs: memory"):
        device.environment(memory=1)
    with pytest.raises(ValueError, match="no such order"):
        gpu.streams("sorted")


def test_a_reset_forgets_everything(gpu: device.Device) -> None:
    gpu.set("memory_bytes", 4096)
    ok(cu.cuMemAlloc(16))
    gpu.fault("*:1:719")
    assert code(cu.cuMemAlloc(16)) == 719
    gpu.reset()
    assert (gpu.live_bytes(), gpu.calls("cuMemAlloc"), gpu.report()) == (0, 0, "")
    assert gpu.get("memory_bytes") != "4096"
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
    ok(cu.cuMemAlloc(16))


def test_a_driver_that_was_set_aside_comes_back_as_it_was(gpu: device.Device) -> None:
    pointer, context = allocated([1, 2]), ok(cu.cuCtxGetCurrent())
    gpu.set("memory_bytes", 4096)
    with gpu.set_aside():
        assert code(cu.cuMemAlloc(16)) == 3
        assert (gpu.live_bytes(), gpu.get("memory_bytes")) == (0, str(512 << 20))
        ok(cu.cuInit(0))
        ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        gpu.fault("cuMemAlloc:1:719")
        assert code(cu.cuMemAlloc(16)) == 719
        gpu.reset()
    assert int(ok(cu.cuCtxGetCurrent())) == int(context)
    assert gpu.get("memory_bytes") == "4096"
    assert contents(pointer, 2) == [1, 2]


def test_preloading_twice_gives_the_same_device(gpu: device.Device) -> None:
    gpu.set("memory_bytes", 4096)
    assert device.preload().get("memory_bytes") == "4096"


BEGIN = """
from cuda.bindings import driver as cu
print(int(cu.cuInit(0)[0]), end=" ", flush=True)
"""


def test_a_program_finds_the_library_and_its_knobs_in_the_environment() -> None:
    script = BEGIN + "print(cu.cuDeviceGetName(5, 0)[1], cu.cuDeviceTotalMem(0)[1])"
    done = in_process(script, device_names="Tiny", memory_bytes=5000)
    assert (done.stdout, done.stderr) == ("0 b'Tiny\\x00' 5000\n", "")


@pytest.mark.parametrize(
    ("knobs", "expected"), [({"devices": 0}, "100 "), ({"faults": "cuInit:1:803"}, "803 ")]
)
def test_initialisation_can_fail(knobs: dict[str, Any], expected: str) -> None:
    assert in_process(BEGIN, **knobs).stdout == expected


def test_after_a_fork_the_child_is_not_initialised() -> None:
    script = (
        BEGIN
        + """
import os
cu.cuCtxSetCurrent(cu.cuDevicePrimaryCtxRetain(0)[1])
child = os.fork()
codes = [int(result[0]) for result in (cu.cuMemAlloc(16), cu.cuInit(0), cu.cuCtxSynchronize())]
if child:
    os.waitpid(child, 0)
print(codes, flush=True)
os._exit(0)
"""
    )
    assert in_process(script).stdout == "0 [3, 3, 3]\n[0, 0, 0]\n"


def test_an_old_driver_lacks_functions() -> None:
    script = BEGIN + "print(int(cu.cuGraphInstantiate(0, 0)[0]))"
    done = in_process(script, driver_version=11030)
    assert "cuGraphInstantiate" in done.stderr
    assert in_process(script, driver_version=11040).stdout == "0 201\n"


def test_a_driver_from_before_cuda_12_lacks_what_the_bindings_begin_with() -> None:
    done = in_process(BEGIN, old_driver=True)
    assert "cuGetProcAddress_v2" in done.stderr


def test_what_goes_wrong_is_printed_on_request() -> None:
    script = BEGIN + "cu.cuCtxSetCurrent(cu.cuDevicePrimaryCtxRetain(0)[1]); cu.cuMemAlloc(1)"
    done = in_process(script, faults="cuMemAlloc:1:719", verbose=1)
    assert done.stderr == "libcuda emulation: cuMemAlloc: injected error 719\n"


def test_preloading_after_another_driver_is_refused() -> None:
    script = BEGIN + "from emulation import device; device.preload()"
    done = in_process(script, old_driver=False)
    assert done.returncode == 0
    other = "import ctypes; ctypes.CDLL('libcuda.so.1'); from emulation import device;"
    done = in_process(other + "device.preload()", old_driver=True)
    assert "is loaded already" in done.stderr


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    source = tmp_path / "nothing.cpp"
    source.write_text("int nothing() { return 0; }\n")
    script = (
        "import sys; from pathlib import Path; from emulation import device;"
        f"print(device.built(device.Library('libnothing.so', (Path({str(source)!r}),), ())))"
    )
    variables = {"PYTHONPATH": str(TESTS), "CULLAMA_EMULATION_CACHE": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).is_file()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_source_that_does_not_compile_is_shown(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int wrong( {\n")
    with pytest.raises(RuntimeError, match=r"libwrong\.so cannot be built"):
        device.compile_into(tmp_path, device.Library("libwrong.so", (source,), ()))
