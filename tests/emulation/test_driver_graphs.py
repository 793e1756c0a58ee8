"""Capture and graphs of the emulated driver: what a graph replays, and what capture forbids."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cullama.emulation import device
from emulation.driver_calls import (
    allocated,
    code,
    contents,
    cu,
    fill,
    launch,
    ok,
    pinned,
    ptx,
    scale_function,
)

GLOBAL = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
THREAD_LOCAL = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
RELAXED = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


def capturing(mode: Any = THREAD_LOCAL, flags: int = 1) -> Any:
    """Return a stream that is capturing."""
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


def test_a_graph_repeats_what_was_captured_with_its_arguments(gpu: device.EmulatedGpu) -> None:
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


def test_a_captured_copy_reads_the_staging_memory_at_each_replay(gpu: device.EmulatedGpu) -> None:
    pointer, staging = allocated([0]), pinned(1)
    stream = capturing()
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 4, stream))
    graph = ok(cu.cuStreamEndCapture(stream))
    for value in (3, 4):
        staging[:] = value
        assert replay(graph, stream) == 0
        assert contents(pointer, 1) == [value]


def test_an_instantiated_graph_outlives_the_graph(gpu: device.EmulatedGpu) -> None:
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
def test_forbidden_calls_invalidate_a_capture(
    gpu: device.EmulatedGpu, call: str, mode: Any
) -> None:
    stream = capturing(mode)
    assert code(FORBIDDEN[call](stream)) == 900
    pointer = cu.CUdeviceptr(0)
    assert code(cu.cuMemsetD8Async(pointer, 0, 1, stream)) == 1
    invalidated = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    assert ok(cu.cuStreamIsCapturing(stream)) == invalidated
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamSynchronize(stream)) == 0


def test_work_for_an_invalidated_capture_is_refused(gpu: device.EmulatedGpu) -> None:
    pointer, stream = allocated([0]), capturing()
    assert code(cu.cuMemAlloc(16)) == 900
    assert fill(pointer, 7, 1, stream) == 901


def test_relaxed_capture_allows_allocations(gpu: device.EmulatedGpu) -> None:
    stream = capturing(RELAXED)
    ok(cu.cuMemAlloc(16))
    assert code(cu.cuStreamSynchronize(stream)) == 900


def test_blocking_copies_are_forbidden_too(gpu: device.EmulatedGpu) -> None:
    pointer, host = allocated([0]), np.zeros(1, np.float32)
    for flags, expected in ((1, 900), (0, 906)):
        stream = capturing(flags=flags)
        assert code(cu.cuMemcpyHtoD(pointer, host.ctypes.data, 4)) == expected
        assert code(cu.cuStreamEndCapture(stream)) == 901


def test_the_legacy_stream_cannot_be_used_beside_a_blocking_stream_that_captures(
    gpu: device.EmulatedGpu,
) -> None:
    pointer, stream = allocated([0]), capturing(flags=0)
    assert fill(pointer, 7, 1, 0) == 906
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamBeginCapture(cu.CUstream(0), THREAD_LOCAL)) == 900


def test_pageable_memory_cannot_be_captured(gpu: device.EmulatedGpu) -> None:
    pointer, host, stream = allocated([0]), np.zeros(1, np.float32), capturing()
    assert code(cu.cuMemcpyHtoDAsync(pointer, host.ctypes.data, 4, stream)) == 900
    assert code(cu.cuStreamEndCapture(stream)) == 901


@pytest.mark.parametrize(("mode", "expected"), [(GLOBAL, 900), (THREAD_LOCAL, 0), (RELAXED, 0)])
def test_only_global_capture_restricts_other_threads(
    gpu: device.EmulatedGpu, mode: Any, expected: int
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


def test_a_graph_spans_streams_that_events_join(gpu: device.EmulatedGpu) -> None:
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


def test_a_graph_branch_without_its_wait_runs_too_early(gpu: device.EmulatedGpu) -> None:
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


def test_a_stream_that_forked_has_to_be_joined(gpu: device.EmulatedGpu) -> None:
    pointer, side, forked = allocated([0]), ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(2))
    stream = capturing()
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert fill(pointer, 7, 1, side) == 0
    assert code(cu.cuStreamEndCapture(stream)) == 904


def test_capture_ends_where_it_began(gpu: device.EmulatedGpu) -> None:
    side, forked = ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(2))
    stream = capturing()
    assert code(cu.cuStreamBeginCapture(stream, THREAD_LOCAL)) == 401
    ok(cu.cuEventRecord(forked, stream))
    ok(cu.cuStreamWaitEvent(side, forked, 0))
    assert code(cu.cuStreamEndCapture(side)) == 903
    assert code(cu.cuStreamEndCapture(stream)) == 901
    assert code(cu.cuStreamEndCapture(stream)) == 401


def test_captures_cannot_be_merged(gpu: device.EmulatedGpu) -> None:
    outside = ok(cu.cuEventCreate(2))
    ok(cu.cuEventRecord(outside, ok(cu.cuStreamCreate(1))))
    stream = capturing()
    assert code(cu.cuStreamWaitEvent(stream, outside, 0)) == 905
    assert code(cu.cuStreamEndCapture(stream)) == 901
    one, other, event = capturing(), capturing(), ok(cu.cuEventCreate(2))
    ok(cu.cuEventRecord(event, one))
    assert code(cu.cuStreamWaitEvent(other, event, 0)) == 902


@pytest.mark.parametrize("node", ["copy", "kernel"])
def test_a_graph_whose_memory_was_freed_makes_an_illegal_access(
    gpu: device.EmulatedGpu, node: str
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
