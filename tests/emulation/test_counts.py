"""Counters of launches equal those that are worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cullama.emulation.counting.counts import AccessCounts, CountedKernel, Counts, Latencies
from cullama.emulation.kernel import EmulatedModule, KernelError
from emulation.planted import compiled

X = np.arange(4096, dtype=np.float32)


@pytest.fixture(scope="module")
def ptx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("counted", tmp_path_factory.mktemp("counted"))


class Counted:
    """Launches kernels of the file, each built once, with all of memory cold."""

    def __init__(self, ptx: Path) -> None:
        self._ptx = ptx
        self._kernels: dict[str, CountedKernel] = {}

    def __call__(self, name: str, grid: Any, block: Any, *arguments: Any, **options: Any) -> Counts:
        kernel = self._kernels.get(name) or CountedKernel(self._ptx, name)
        self._kernels[name] = kernel
        kernel.empty_l2()
        return kernel.count(grid, block, arguments, **options)


@pytest.fixture(scope="module")
def counted(ptx: Path) -> Counted:
    return Counted(ptx)


def accesses(counts: Counts, kind: str, space: str = "global") -> list[AccessCounts]:
    return [a for a in counts.accesses if a.access.kind == kind and a.lanes[space]]


def total(counts: Counts, what: str, kind: str, space: str = "global") -> int:
    return sum(getattr(access, what) for access in accesses(counts, kind, space))


def test_a_copy_of_words_moves_four_sectors_with_each_warp(counted: Counted) -> None:
    out = np.zeros(1024, np.float32)
    counts = counted("copy_words", 4, 256, out, X)
    assert_array_equal(out, X[:1024])
    assert counts.blocks == 4
    assert total(counts, "executions", "load") == 4 * 8
    assert counts.bytes("global", stored=False) == counts.bytes("global", stored=True) == 4096
    assert counts.sectors(stored=False) == counts.sectors(stored=True) == 4096 // 32
    assert (counts.coalescing, counts.active_lanes) == (1, 32)
    assert (counts.block_loads, counts.dram_loads) == (128, 128)
    assert (counts.kinds["load"], counts.kinds["store"]) == (32, 32)


def test_sixteen_bytes_a_lane_are_one_instruction(counted: Counted) -> None:
    out = np.zeros(256, np.float32)
    counts = counted("copy_vectors", 1, 64, out, X)
    (load,) = accesses(counts, "load")
    assert (load.executions, load.access.bytes, load.sectors) == (2, 16, 2 * 512 // 32)
    assert counts.coalescing == 1


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (3, 12), (8, 32), (32, 32)])
def test_strided_loads_move_more_sectors(counted: Counted, stride: int, sectors: int) -> None:
    counts = counted("copy_strided", 1, 32, np.zeros(32, np.float32), X, stride)
    assert total(counts, "sectors", "load") == sectors
    assert total(counts, "ideal_sectors", "load") == 4
    assert counts.coalescing == (4 + 4) / (sectors + 4)


@pytest.mark.parametrize(("kernel", "passes"), [("transpose", 32 * 32), ("transpose_padded", 32)])
def test_a_column_in_one_bank_takes_a_pass_for_each_lane(
    counted: Counted, kernel: str, passes: int
) -> None:
    out = np.zeros(1024, np.float32)
    counts = counted(kernel, 1, (32, 8), out, X)
    assert_array_equal(out.reshape(32, 32), X[:1024].reshape(32, 32).T)
    assert total(counts, "shared_executions", "load", "shared") == 32
    assert total(counts, "passes", "load", "shared") == passes
    assert total(counts, "passes", "store", "shared") == 32
    assert counts.bank_conflicts == passes - 32
    assert counts.kinds["barrier"] == 8
    assert counts.bytes("shared", stored=False) == counts.bytes("shared", stored=True) == 4096


def test_turns_of_a_loop_count_for_the_lanes_that_are_in_them(counted: Counted) -> None:
    """1000 = 3 · 256 + 232: seven warps have 4 turns, the last one 3 and one of 8 lanes."""
    out = np.zeros(1, np.float32)
    counts = counted("sum_in_block", 1, 256, out, X, 1000)
    assert out[0] == X[:1000].sum()
    (load,) = accesses(counts, "load")
    assert (load.executions, load.lanes["global"], load.sectors) == (32, 1000, 125)
    (store,) = accesses(counts, "store", "shared")
    assert (store.executions, store.lanes["shared"]) == (8, 8)
    assert (counts.kinds["shuffle"], counts.kinds["barrier"]) == (8 * 5, 8)


def test_lanes_at_one_address_share_its_sector(counted: Counted) -> None:
    index = np.arange(32, dtype=np.int32) * 8
    index[16:] = 5  # in the sector of lane 0
    counts = counted("gather_words", 1, 32, np.zeros(32, np.float32), X, index)
    (gather,) = [a for a in accesses(counts, "load") if a.sectors != 4]
    assert (gather.sectors, gather.ideal_sectors) == (16, 3)
    assert (gather.distinct, gather.requested, gather.same_address) == (17 * 4, 32 * 4, 15)


def test_lanes_that_work_in_different_turns_do_not_work_together(counted: Counted) -> None:
    counts = counted("take_turns", 1, 32, np.zeros(1300, np.float32))
    stores = sum(i % 3 + 1 for i in range(40))
    assert total(counts, "executions", "store") == stores
    assert sum(a.lanes["global"] for a in accesses(counts, "store")) == stores
    assert counts.active_lanes < 32


def test_lanes_that_have_left_a_loop_do_not_count(counted: Counted) -> None:
    counts = counted("leave_early", 1, 32, np.zeros(32, np.float32), X)
    (load,) = accesses(counts, "load")
    assert (load.executions, load.lanes["global"]) == (32, 32 * 33 // 2)
    assert load.sectors == sum(4 - turn // 8 for turn in range(32))


def test_atomics_at_one_address_are_counted(counted: Counted) -> None:
    found = np.zeros(4, np.uint32)
    counts = counted("count_keys", 1, 32, found, np.arange(32, dtype=np.uint32))
    assert_array_equal(found, 8)
    (atomic,) = accesses(counts, "atomic")
    assert (atomic.executions, atomic.sectors, atomic.same_address) == (1, 1, 28)
    assert counts.kinds["atomic"] == 1


def test_wide_accesses_go_through_the_banks_by_quarters(counted: Counted) -> None:
    counts = counted("store_apart", 1, 128, np.zeros(512, np.float32))
    (store,) = accesses(counts, "store", "shared")
    assert (store.executions, store.passes, store.ideal_passes) == (4, 4 * 4 * 2, 4 * 4)


def test_loads_that_depend_on_each_other_are_one_at_a_time(counted: Counted) -> None:
    """The clock of a thread: four latencies in a row, or one."""
    latencies = Latencies(l1=100, l2=1000, dram=10_000)
    chain = np.roll(np.arange(4096, dtype=np.int32), -1024)  # four different sectors
    out = np.zeros(32, np.int32)
    followed = counted("follow", 1, 32, out, chain, latencies=latencies)
    together = counted("load_four", 1, 32, out, X.astype(np.int32), latencies=latencies)
    assert followed.load_cycles == together.load_cycles == 32 * 4 * 10_000
    assert followed.cycles // 10_000 == 4
    assert together.cycles // 10_000 == 1
    assert followed.loads_in_flight == pytest.approx(1, abs=0.05)
    assert together.loads_in_flight == pytest.approx(4, abs=0.1)
    assert together.bytes_in_flight == pytest.approx(4 * 4 * 32, rel=0.03)


def test_sectors_that_blocks_share_come_from_dram_once(counted: Counted) -> None:
    """Four blocks read the same 128 bytes, and store to the same ones."""
    counts = counted("copy_strided", 4, 32, np.zeros(32, np.float32), X, 1)
    assert (counts.block_loads, counts.dram_loads) == (16, 4)
    assert (counts.block_stores, counts.dram_stores) == (16, 4)


def test_a_sample_of_blocks_stands_for_all(counted: Counted) -> None:
    counts = counted("copy_words", 16, 256, np.zeros(4096, np.float32), X, sample=3)
    assert (counts.blocks, counts.grid) == (3, (16,))
    assert counts.sectors(stored=False) == 3 * 32


def test_counts_name_the_line_of_the_kernel(counted: Counted) -> None:
    counts = counted("copy_strided", 1, 32, np.zeros(32, np.float32), X, 8)
    (load,) = accesses(counts, "load")
    assert load.source is not None
    source = (Path(__file__).parent / "kernels" / "counted.cu").read_text().splitlines()
    assert "x[threadIdx.x * stride]" in source[load.source.line - 1]


def test_a_failed_launch_leaves_the_next_count_right(counted: Counted) -> None:
    with pytest.raises(KernelError):
        counted("gather_words", 1, 32, np.zeros(1, np.float32), X, np.arange(32, dtype=np.int32))
    again = counted("copy_words", 1, 32, np.zeros(32, np.float32), X)
    assert total(again, "executions", "load") == 1


def test_a_counted_build_gives_the_same_results(ptx: Path, counted: Counted) -> None:
    usual, out = np.zeros(1, np.float32), np.zeros(1, np.float32)
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    EmulatedModule(ptx).launch("sum_in_block", 1, 256, [usual, values, 1000])
    counted("sum_in_block", 1, 256, out, values, 1000)
    assert_array_equal(out, usual)
