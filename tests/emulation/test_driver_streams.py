"""Streams and events of the emulated driver: which order of work each kind guarantees."""

from __future__ import annotations

import numpy as np
import pytest

from cullama.emulation import device
from emulation.driver_calls import allocated, code, contents, cu, fill, ok, pinned


@pytest.mark.parametrize("order", ["lazy", "random", "issued"])
def test_missing_synchronisation_shows_as_unwritten_data(
    gpu: device.EmulatedGpu, order: str
) -> None:
    gpu.streams(order)
    stream = ok(cu.cuStreamCreate(1))
    pointer, host = allocated([1, 2]), pinned(2)
    host[:] = -1
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 8, stream))
    assert host.tolist() == [-1, -1]
    ok(cu.cuStreamSynchronize(stream))
    assert host.tolist() == [1, 2]


def test_eager_streams_hide_it(gpu: device.EmulatedGpu) -> None:
    gpu.streams("eager")
    pointer, host = allocated([1, 2]), pinned(2)
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 8, ok(cu.cuStreamCreate(1))))
    assert host.tolist() == [1, 2]


def test_staging_memory_reused_too_early_shows(gpu: device.EmulatedGpu) -> None:
    stream, pointer, staging = ok(cu.cuStreamCreate(1)), allocated([0, 0]), pinned(2)
    staging[:] = 1
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 8, stream))
    staging[:] = 2
    ok(cu.cuStreamSynchronize(stream))
    assert contents(pointer, 2) == [2, 2]


def test_pageable_memory_is_read_at_the_call(gpu: device.EmulatedGpu) -> None:
    stream, pointer, staging = ok(cu.cuStreamCreate(1)), allocated([0, 0]), np.ones(2, np.float32)
    ok(cu.cuMemcpyHtoDAsync(pointer, staging.ctypes.data, 8, stream))
    staging[:] = 2
    ok(cu.cuStreamSynchronize(stream))
    assert contents(pointer, 2) == [1, 1]


def test_memory_is_copied_between_allocations_in_order(gpu: device.EmulatedGpu) -> None:
    stream, source, target = ok(cu.cuStreamCreate(1)), allocated([1, 2]), allocated([0, 0])
    assert fill(source, 7, 1, stream) == 0
    ok(cu.cuMemcpyDtoDAsync(target, source, 8, stream))
    assert fill(source, 8, 2, stream) == 0
    ok(cu.cuStreamSynchronize(stream))
    assert contents(target, 2) == [7, 2]


def copied_from_another_stream(waits: bool) -> list[float]:
    """One stream writes, another copies what was written, with or without waiting for an event."""
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
def test_an_event_orders_two_streams(gpu: device.EmulatedGpu, order: str) -> None:
    for seed in range(10):
        gpu.streams(order, seed)
        assert copied_from_another_stream(waits=True) == [7, 7]


def test_a_missing_wait_for_an_event_shows(gpu: device.EmulatedGpu) -> None:
    assert copied_from_another_stream(waits=False) == [1, 2]
    gpu.streams("issued")
    assert copied_from_another_stream(waits=False) == [7, 7]


def test_each_seed_gives_one_order_and_seeds_differ(gpu: device.EmulatedGpu) -> None:
    def run(seed: int) -> list[float]:
        gpu.streams("random", seed)
        return copied_from_another_stream(waits=False)

    results = [run(seed) for seed in range(20)]
    assert {tuple(result) for result in results} == {(1, 2), (7, 7)}
    assert results == [run(seed) for seed in range(20)]


def test_a_wait_is_for_the_last_record_before_it(gpu: device.EmulatedGpu) -> None:
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
    gpu: device.EmulatedGpu, flags: int, seen: float
) -> None:
    pointer = allocated([1])
    assert fill(pointer, 7, 1, ok(cu.cuStreamCreate(flags))) == 0
    assert contents(pointer, 1) == [seen]
    ok(cu.cuCtxSynchronize())
    assert contents(pointer, 1) == [7]


def test_a_blocking_stream_comes_after_the_legacy_stream(gpu: device.EmulatedGpu) -> None:
    stream, source, target = ok(cu.cuStreamCreate(0)), allocated([1]), allocated([0])
    assert fill(source, 7, 1, 0) == 0
    ok(cu.cuMemcpyDtoDAsync(target, source, 4, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert contents(target, 1) == [7]


def test_a_query_says_not_ready_before_it_says_ready(gpu: device.EmulatedGpu) -> None:
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


def test_elapsed_time_is_known_when_both_events_are_done(gpu: device.EmulatedGpu) -> None:
    stream = ok(cu.cuStreamCreate(1))
    start, end, untimed = (ok(cu.cuEventCreate(flags)) for flags in (0, 0, 2))
    assert code(cu.cuEventElapsedTime(start, end)) == 400
    for event in (start, end, untimed):
        ok(cu.cuEventRecord(event, stream))
    assert code(cu.cuEventElapsedTime(start, end)) == 600
    ok(cu.cuStreamSynchronize(stream))
    assert ok(cu.cuEventElapsedTime(start, end)) >= 0
    assert code(cu.cuEventElapsedTime(start, untimed)) == 400


def test_a_destroyed_stream_finishes_its_work_and_takes_no_more(gpu: device.EmulatedGpu) -> None:
    stream, event, pointer = ok(cu.cuStreamCreate(1)), ok(cu.cuEventCreate(0)), allocated([1])
    assert fill(pointer, 7, 1, stream) == 0
    ok(cu.cuStreamDestroy(stream))
    ok(cu.cuEventDestroy(event))
    assert fill(pointer, 8, 1, stream) == 400
    assert code(cu.cuStreamSynchronize(stream)) == 400
    assert code(cu.cuEventRecord(event, 0)) == 400
    ok(cu.cuCtxSynchronize())
    assert contents(pointer, 1) == [7]


def test_freeing_memory_waits_for_the_work_that_uses_it(gpu: device.EmulatedGpu) -> None:
    pointer, host = allocated([1]), pinned(1)
    ok(cu.cuMemcpyDtoHAsync(host.ctypes.data, pointer, 4, ok(cu.cuStreamCreate(1))))
    ok(cu.cuMemFree(pointer))
    assert host.tolist() == [1]
