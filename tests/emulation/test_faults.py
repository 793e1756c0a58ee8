"""Races and reads of what nothing wrote are found in one run, by the lines of both accesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from cullama.emulation.checking.faults import CheckedKernel, MemoryFault
from emulation.planted import HERE, compiled

X = np.arange(512, dtype=np.float32)
Check: TypeAlias = Callable[..., list[MemoryFault]]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    ptx = compiled("racing", tmp_path_factory.mktemp("racing"))

    def check(name: str, grid: Any, block: Any, *arguments: Any) -> list[MemoryFault]:
        kernel = CheckedKernel(ptx, name, is_alone=False)
        kernel.count(grid, block, arguments)
        return kernel.faults

    return check


def found(faults: list[MemoryFault]) -> set[tuple[str, str, str]]:
    """Return each fault's kind and the texts of its two lines, in the order of the file."""
    lines = (HERE / "kernels" / "racing.cu").read_text().splitlines()
    result = set()
    for fault in faults:
        places = [fault.later] if fault.earlier is None else [fault.earlier, fault.later]
        numbers = sorted({place.source.line for place in places if place.source})
        texts = [lines[number - 1].strip() for number in numbers]
        result.add((fault.kind, texts[0], texts[-1]))
    return result


def out(count: int = 512) -> Any:
    return np.zeros(count, np.float32)


def test_a_missing_barrier_is_a_race_of_threads(check: Check) -> None:
    store, load = "row[threadIdx.x] = x[threadIdx.x];", "out[threadIdx.x] = row[127 - threadIdx.x];"
    faults = check("missing_barrier", 1, 128, out(), X)
    assert ("race of threads", store, load) in found(faults)
    first = next(fault for fault in faults if fault.kind == "race of threads")
    assert first.earlier is not None
    assert first.earlier.thread // 32 != first.later.thread // 32


@pytest.mark.parametrize(
    "kernel", ["with_barrier", "with_syncwarp", "with_fence", "waited_copy", "same_value", "halves"]
)
def test_what_is_in_order_is_no_race(check: Check, kernel: str) -> None:
    assert found(check(kernel, 2, 128, out(), X)) == set()


def test_lanes_of_a_warp_need_a_syncwarp_and_a_shuffle_is_none(check: Check) -> None:
    store, load = "row[threadIdx.x] = v;", "out[threadIdx.x] = row[threadIdx.x ^ 1];"
    assert ("race of lanes", store, load) in found(check("shuffle_is_no_barrier", 1, 32, out(), X))


def test_a_place_that_is_written_while_others_read_is_a_race(check: Check) -> None:
    faults = found(check("reused_too_early", 1, 128, out(), X))
    store, load = "if (threadIdx.x == 0) value = x[pass];", "out[pass * 128 + threadIdx.x] = value;"
    assert ("race of threads", store, load) in faults


def test_blocks_that_meet_without_a_fence_race(check: Check) -> None:
    store, load = "out[blockIdx.x] = x[blockIdx.x];", "out[8] = out[0] + out[1];"
    assert found(check("without_fence", 2, 1, out(16), X)) == {("race of blocks", store, load)}


def test_a_copy_is_read_after_its_wait_alone(check: Check) -> None:
    [(kind, _, load)] = found(check("copy_without_wait", 1, 128, out(), X))
    assert (kind, load) == ("open copy", "out[threadIdx.x] = row[threadIdx.x];  // too early")


def test_shared_memory_is_written_before_it_is_read(check: Check) -> None:
    line = "out[threadIdx.x] = row[threadIdx.x + 1];"
    assert ("unwritten", line, line) in found(check("reads_past_what_is_written", 1, 32, out()))


def test_different_values_in_one_place_are_a_race(check: Check) -> None:
    line = "out[0] = mine;"
    assert ("race of threads", line, line) in found(check("last_writer_wins", 1, 64, out()))
