"""The model that predicts a launch's time, and the occupancy that goes into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cullama.emulation.counting.counts import CountedKernel, Counts
from cullama.emulation.timing.cards import CARDS
from cullama.emulation.timing.prediction import of_whole_grid, predict, soft_sum
from cullama.emulation.timing.resources import Resources, find_ptxas, occupancy, resources_of
from emulation.planted import compiled

H200 = CARDS["h200"]

NOTHING = Counts(
    *("none", (132,), (256,), 132),
    *(0, 0, 0, 0, 0),
    *(0, 0, 0, 0, 0, 0),
    kinds={},
    slots=0,
    lane_slots=0,
    accesses=(),
    waits={},
)


@pytest.fixture(scope="module")
def ptx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("counted", tmp_path_factory.mktemp("counted"))


def test_a_soft_sum_lies_between_the_larger_term_and_the_sum() -> None:
    assert 3 < soft_sum([3, 2], 2) < 5
    assert soft_sum([3, 0], 1.6) == pytest.approx(3)


def test_what_blocks_share_comes_from_dram_once() -> None:
    """Ten sectors a block, of which four are the same for all 100 blocks."""
    assert of_whole_grid(10 + 3 * 6, 10, blocks=4, grid=100) == 100 * 6 + 4
    assert of_whole_grid(4 * 6, 6, blocks=4, grid=100) == 100 * 6  # the four are in L2
    assert of_whole_grid(10, 10, blocks=4, grid=100) == 10
    assert of_whole_grid(10, 10, blocks=1, grid=1) == 10


def test_a_launch_that_streams_takes_the_time_of_its_bytes() -> None:
    sectors = 448 * 1_000_000 // 32
    counts = replace(NOTHING, block_loads=sectors, dram_loads=sectors, first_loads=sectors // 132)
    told = predict(counts, H200, resident=8)
    assert told.limit == "DRAM"
    assert told.dram_bytes == 448e6
    assert told.terms["DRAM"] == pytest.approx(448e6 / 4.48e6, rel=0.01)
    assert told.microseconds == pytest.approx(100, rel=0.01)


def test_a_launch_of_arithmetic_takes_the_time_of_its_slots() -> None:
    counts = replace(NOTHING, slots=132 * 4 * 19_800, kinds={"move": 132 * 4 * 19_800})
    told = predict(counts, H200, resident=1)
    assert told.limit == "issue slots"
    assert told.terms["issue slots"] == pytest.approx(10)  # 19,800 cycles at 1.98 GHz


def test_more_resident_blocks_shorten_the_chain() -> None:
    counts = replace(NOTHING, grid=(132 * 16,), blocks=4, cycles=4 * 1980)
    few, many = (predict(counts, H200, resident).terms["latency"] for resident in (4, 16))
    assert many == pytest.approx(1)
    assert few == pytest.approx(4 + 3 * 400 / 1980)


@pytest.mark.parametrize(
    ("resources", "threads", "dynamic", "blocks", "limit"),
    [
        (Resources(32, 0, 0), 256, 0, 8, "warps"),
        (Resources(128, 0, 0), 256, 0, 2, "registers"),
        (Resources(32, 0, 0), 32, 0, 32, "blocks"),
        (Resources(32, 1024, 0), 128, 96 << 10, 2, "shared memory"),
        (None, 256, 0, 8, "warps"),
    ],
)
def test_resident_blocks_are_those_that_fit(
    resources: Resources | None, threads: int, dynamic: int, blocks: int, limit: str
) -> None:
    found = occupancy(H200, resources, threads, dynamic)
    assert (found.blocks, found.limit) == (blocks, limit)


@pytest.mark.skipif(find_ptxas() is None, reason="needs ptxas")
def test_ptxas_tells_registers_and_shared_memory(ptx: Path) -> None:
    card = CARDS["a100"]
    tiles = [resources_of(ptx, name, card) for name in ("transpose", "transpose_padded")]
    assert [found and found.shared for found in tiles] == [32 * 32 * 4, 32 * 33 * 4]
    words = resources_of(ptx, "copy_words", card)
    assert words is not None
    assert 0 < words.registers < 32
    assert words.spilled == 0


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("h200", 989 * 0.63), ("a100", 312), ("4090", 165), ("5090", 210), ("l4", 121)],
)
def test_tensor_rates_are_the_datasheets(name: str, teraflops: float) -> None:
    card = CARDS[name]
    rate = 2 * card.sms * card.sm.tensor * card.clock / 1e3
    assert rate == pytest.approx(teraflops, rel=0.1)


def test_a_strided_copy_is_predicted_to_be_slower(ptx: Path) -> None:
    x, out = np.zeros(32 * 32, np.float32), np.zeros(32, np.float32)
    kernel = CountedKernel(ptx, "copy_strided")
    times = []
    for stride in (1, 32):
        kernel.empty_l2()
        counts = kernel.count(4096, 32, [out, x, stride], sample=4)
        times.append(predict(counts, CARDS["l4"], resident=24).microseconds)
    assert times[1] > 1.5 * times[0]
