"""Planted slowness: each kind is named first, at its line; a good kernel has none of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cullama.emulation.counting.counts import CountedKernel
from cullama.emulation.ptx import Source
from cullama.emulation.timing.cards import CARDS
from cullama.emulation.timing.obstacles import Examined, Obstacle, obstacles
from cullama.emulation.timing.prediction import predict
from cullama.emulation.timing.resources import Resources, occupancy
from emulation.planted import HERE, compiled

H200 = CARDS["h200"]
SOURCE = (HERE / "kernels" / "slow.cu").read_text().splitlines()

# Kernel, what is to be named, blocks, threads, the argument n, bytes of dynamic shared memory.
PLANTED = [
    ("uncoalesced_loads", "uncoalesced loads", 132, 128, 64, 0),
    ("uncoalesced_stores", "uncoalesced stores", 132, 128, 64, 0),
    ("bank_conflicts", "bank conflicts", 1056, 32, 32, 0),
    ("few_loads", "few loads in flight", 132, 128, 32, 0),
    ("narrow_loads", "narrow loads", 528, 128, 2048, 0),
    ("divisions", "integer or exact division", 1056, 128, 7, 0),
    ("atomics", "atomics at one address", 1056, 256, 4, 0),
    ("cas_loops", "compare-and-swap loop", 528, 128, 32, 0),
    ("divergence", "divergence", 132, 128, 20, 0),
    ("local_memory", "local memory", 528, 128, 64, 0),
    ("barriers", "barriers", 528, 128, 64, 0),
    ("special_functions", "special functions", 1056, 256, 16, 0),
    ("doubles", "64-bit floats", 528, 128, 64, 0),
    ("low_occupancy", "low occupancy", 528, 128, 2048, 200 << 10),
    ("few_blocks", "few blocks", 1, 256, 8192, 0),
]


@pytest.fixture(scope="module")
def ptx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("slow", tmp_path_factory.mktemp("slow"))


@cache
def kernel(ptx: Path, name: str) -> CountedKernel:
    return CountedKernel(ptx, name, is_alone=False)  # all are built at once


def found_in(
    ptx: Path, name: str, blocks: int, threads: int, n: int, shared: int
) -> list[Obstacle]:
    counted = kernel(ptx, name)
    counted.empty_l2()
    out = np.zeros(blocks * threads * 64, np.float32)
    x = np.arange(blocks * threads * max(64, n // 32) + 4096, dtype=np.int32) % 4096
    counts = counted.count(blocks, threads, [out, x, n], shared, sample=2)
    room = occupancy(H200, Resources(32, 0, 0), threads, shared)
    return obstacles(Examined(counts, predict(counts, H200, room.blocks), room, H200))


def test_at_least_ten_kinds_are_planted() -> None:
    assert len({what for _, what, *_ in PLANTED}) >= 10


@pytest.mark.parametrize(("name", "what", "blocks", "threads", "n", "shared"), PLANTED)
def test_planted_slowness_is_named_at_its_line(
    ptx: Path, name: str, what: str, blocks: int, threads: int, n: int, shared: int
) -> None:
    found = found_in(ptx, name, blocks, threads, n, shared)
    named = {obstacle.what: obstacle for obstacle in found}
    assert what in named, found
    assert found.index(named[what]) < 2, found
    start = next(i for i, text in enumerate(SOURCE) if f"void {name}(" in text)
    end = SOURCE.index("}", start)
    planted = [i + 1 for i in range(start, end) if SOURCE[i].endswith("// SLOW")]
    line = named[what].line
    if planted:
        assert isinstance(line, Source)
        assert (Path(line.file).name, line.line) == ("slow.cu", planted[0])
    else:
        assert line is None


def test_a_good_kernel_has_no_obstacle(ptx: Path) -> None:
    assert found_in(ptx, "good", 528, 128, 2048, 0) == []
