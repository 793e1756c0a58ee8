"""Warp collectives, barriers with votes, matrices: what each lane gets, in any order of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from cullama.emulation.kernel import SCHEDULES, KernelError, Schedule
from emulation.probe import BF16, F16, F32, integers, module_of, result

Array = NDArray[Any]
ORDERS = pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
LANES = np.arange(64)
FULL = "0xffffffff"


def words(count: int = 64, seed: int = 0) -> Array:
    return integers(np.uint32, seed)[:count]


def shuffled_from(mode: str, lane: int, control: int, width: int) -> tuple[int, bool]:
    """As CUDA describes it: a lane whose source is outside its segment keeps its value."""
    start = lane // width * width
    source = {
        "up": lane - control,
        "down": lane + control,
        "bfly": lane ^ control,
        "idx": start + control % width,
    }[mode]
    is_inside = {
        "up": source >= start,
        "down": source < start + width,
        "bfly": source < start + width,
        "idx": True,
    }[mode]
    return (source if is_inside else lane), is_inside


@ORDERS
@pytest.mark.parametrize("mode", ["idx", "up", "down", "bfly"])
def test_shuffles(mode: str, schedule: Schedule) -> None:
    values = words()
    for width, control in [(32, 1), (32, 16), (8, 3), (16, 9), (32, 31), (4, 2), (32, 0)]:
        segments = (32 - width) << 8 | (0 if mode == "up" else 31)
        code = f"shfl.sync.{mode}.b32 {{0}}|%q, {{1}}, {control}, {segments}, {FULL};"
        flag = "selp.u32 {0}, 1, 0, %q;"
        found = result(code, np.uint32, values, schedule=schedule)
        inside = result(code + flag, np.uint32, values, schedule=schedule)
        sources, are_inside = zip(
            *(shuffled_from(mode, lane, control, width) for lane in range(32)), strict=True
        )
        for warp in (0, 32):
            assert_array_equal(found[warp : warp + 32], values[warp + np.array(sources)])
            assert_array_equal(inside[warp : warp + 32], are_inside)


def test_halves_of_a_warp_shuffle_on_their_own() -> None:
    values = words()
    code = (
        "and.b32 %t1, %i, 31; setp.lt.u32 %q, %t1, 16; @%q bra LOW; "
        "shfl.sync.bfly.b32 {0}, {1}, 1, 31, 0xffff0000;"
        "bra.uni DONE; LOW: shfl.sync.bfly.b32 {0}, {1}, 2, 31, 0x0000ffff; "
        "DONE: bar.warp.sync 0xffffffff;"
    )
    expected = values[np.where(LANES % 32 < 16, LANES ^ 2, LANES ^ 1)]
    for schedule in SCHEDULES[:3]:
        assert_array_equal(result(code, np.uint32, values, schedule=schedule), expected)


def test_lanes_that_do_not_exist_read_as_poison() -> None:
    found = result(f"shfl.sync.bfly.b32 {{0}}, {{1}}, 16, 31, {FULL};", np.uint32, words(20))
    assert_array_equal(found[:4], words()[16:20])
    assert_array_equal(found[4:16], np.full(12, 0xFFFFFFFF))


@ORDERS
def test_votes(schedule: Schedule) -> None:
    values = (words() % 2).astype(np.uint32)
    values[32:] = 1
    yes = "setp.ne.u32 %p9, {1}, 0;"

    def vote(mode: str, mask: str = FULL) -> Array:
        code = f"{yes} vote.sync.{mode}.pred %p8, %p9, {mask}; selp.u32 {{0}}, 1, 0, %p8;"
        return result(code, np.uint32, values, schedule=schedule)

    ballot = result(
        f"{yes} vote.sync.ballot.b32 {{0}}, %p9, {FULL};", np.uint32, values, schedule=schedule
    )
    bits = [int("".join(map(str, values[w : w + 32][::-1])), 2) for w in (0, 32)]
    assert_array_equal(ballot, np.repeat(bits, 32))
    assert_array_equal(vote("any"), np.ones(64))
    assert_array_equal(vote("all"), np.repeat([0, 1], 32))
    assert_array_equal(vote("uni"), np.repeat([0, 1], 32))


@ORDERS
def test_reductions(schedule: Schedule) -> None:
    values = words()
    halves = values.reshape(2, 32)
    reductions = {"add": halves.sum(1, dtype=np.uint32), "min": halves.min(1), "max": halves.max(1)}
    for name, expected in reductions.items():
        found = result(
            f"redux.sync.{name}.u32 {{0}}, {{1}}, {FULL};", np.uint32, values, schedule=schedule
        )
        assert_array_equal(found, np.repeat(expected, 32))
    for name, function in {
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }.items():
        found = result(
            f"redux.sync.{name}.b32 {{0}}, {{1}}, {FULL};", np.uint32, values, schedule=schedule
        )
        assert_array_equal(found, np.repeat(function.reduce(halves, axis=1), 32))
    signed = values.view(np.int32)
    found = result(f"redux.sync.min.s32 {{0}}, {{1}}, {FULL};", np.int32, signed, schedule=schedule)
    assert_array_equal(found, np.repeat(signed.reshape(2, 32).min(1), 32))


def test_matches() -> None:
    values = words() % 5
    values[32:] = 3
    expected = [
        sum(1 << k for k in range(32) if values[i // 32 * 32 + k] == values[i]) for i in range(64)
    ]
    assert_array_equal(
        result(f"match.any.sync.b32 {{0}}, {{1}}, {FULL};", np.uint32, values), expected
    )
    code = f"match.all.sync.b32 {{0}}|%q, {{1}}, {FULL};"
    assert_array_equal(result(code, np.uint32, values), np.repeat([0, 0xFFFFFFFF], 32))
    assert_array_equal(
        result(code + "selp.u32 {0}, 1, 0, %q;", np.uint32, values), np.repeat([0, 1], 32)
    )
    wide = words(64).astype(np.uint64) << np.uint64(32)
    assert result(f"match.any.sync.b64 {{0}}, {{1}}, {FULL};", np.uint32, wide).all()


def test_thread_and_block_indices() -> None:
    text = (
        ".visible .entry run(.param .u64 out) { .reg .b64 %l<3>; .reg .b32 %r<30>; "
        "ld.param.u64 %l1, [out];"
        "mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; "
        "mov.u32 %r5, %ntid.y;"
        "mov.u32 %r6, %ctaid.x; mov.u32 %r7, %ctaid.y; mov.u32 %r8, %nctaid.x; "
        "mov.u32 %r9, %nctaid.y;"
        "mov.u32 %r10, %laneid; mov.u32 %r11, %warpid; mov.u32 %r12, %nwarpid; "
        "mov.u32 %r13, %lanemask_lt;"
        "mov.u32 %r14, %lanemask_ge; mov.u32 %r15, %lanemask_eq; mov.u32 %r16, %lanemask_gt; "
        "mov.u32 %r17, %lanemask_le; activemask.b32 %r18;"
        "mad.lo.u32 %r20, %r3, %r5, %r2; mad.lo.u32 %r20, %r20, %r4, %r1; "
        "mad.lo.u32 %r21, %r7, %r8, %r6;"
        "mad.lo.u32 %r20, %r21, 96, %r20; mad.wide.u32 %l2, %r20, 80, %l1;"
        + "".join(f"st.global.u32 [%l2+{4 * n}], %r{n};" for n in range(1, 19))
        + "ret; }"
    )
    out = np.zeros((6, 96, 20), np.uint32)
    module_of(text).launch("run", (3, 2), (8, 6, 2), [out])
    block, thread = np.indices((6, 96))
    lane = thread % 32
    sizes = [np.full_like(lane, size) for size in (8, 6, 3, 2)]
    columns = [thread % 8, thread // 8 % 6, thread // 48, *sizes[:2], block % 3, block // 3]
    columns += [*sizes[2:], lane, thread // 32, np.full_like(lane, 3), (1 << lane) - 1]
    columns += [2**32 - (1 << lane), 1 << lane, 2**32 - (2 << lane), (2 << lane) - 1]
    for number, expected in enumerate(columns, 1):
        assert_array_equal(out[:, :, number], expected, err_msg=str(number))
    assert (out[:, :, 18] >> lane & 1).all()  # an active mask guarantees no more


@ORDERS
def test_barriers_count_votes(schedule: Schedule) -> None:
    values = words(60)
    yes = "setp.gt.u32 %p9, {1}, 1000;"
    count = result(yes + "bar.red.popc.u32 {0}, 0, %p9;", np.uint32, values, schedule=schedule)
    assert_array_equal(count, np.full(60, (values > 1000).sum()))
    for mode, expected in {"and": 0, "or": 1}.items():
        code = f"{yes} barrier.red.{mode}.pred %q, 0, %p9; selp.u32 {{0}}, 1, 0, %q;"
        assert_array_equal(
            result(code, np.uint32, values, schedule=schedule), np.full(60, expected)
        )


# --- matrices -------------------------------------------------------------------------------------

LOAD = (
    ".shared .align 16 .b8 rows[512]; mov.u32 %t1, rows; mad.lo.u32 %t2, %i, 16, %t1; "
    "st.shared.v4.u32 [%t2], {{%r1, %r2, %r3, %r4}};"
    "bar.sync 0; ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {targets}, [%t2]; "
    "mov.u32 {{0}}, %t{chosen};"
)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_loads(count: int, is_transposed: bool) -> None:
    """Lane 8 i + r brings row r of matrix i; "
    "lane l gets columns 2 (l % 4) and one more of row l / 4."""
    columns = [words(32, seed) for seed in range(4)]
    matrices = np.stack(columns, 1).copy().view(np.uint16).reshape(4, 8, 8)
    targets = "{" + ", ".join(f"%t{5 + n}" for n in range(count)) + "}"
    for number in range(count):
        code = LOAD.format(
            count=count, trans=".trans" * is_transposed, targets=targets, chosen=5 + number
        )
        code = code.replace("{0}", "%r0")
        matrix = matrices[number].T if is_transposed else matrices[number]
        found = result(code, np.uint32, *columns)
        assert_array_equal(found, matrix.copy().view(np.uint32).reshape(32))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("dtype", [F16, BF16])
def test_matrix_products(dtype: Any, depth: int) -> None:
    draw = np.random.default_rng(0)
    a, b = (
        draw.standard_normal((16, depth)).astype(dtype),
        draw.standard_normal((8, depth)).astype(dtype),
    )
    c = draw.standard_normal((16, 8)).astype(F32)
    lane = np.arange(32)
    row, pair = lane // 4, lane % 4 * 2

    def pairs(matrix: Array, rows: Array, columns: Array) -> Array:
        both = np.stack([matrix[rows, columns], matrix[rows, columns + 1]], 1)
        words: Array = both.copy().view(np.uint32)[:, 0]
        return words

    left = [pairs(a, row + 8 * (n % 2), pair + 8 * (n // 2)) for n in range(depth // 4)]
    right = [pairs(b, row, pair + 8 * n) for n in range(depth // 8)]
    start = [c[row + 8 * (n // 2), pair + n % 2].copy() for n in range(4)]
    name = {F16: "f16", BF16: "bf16"}[dtype]
    operands = [*left, *right, *start]
    a_names = ", ".join(f"%r{1 + n}" for n in range(len(left)))
    b_names = ", ".join(f"%r{1 + len(left) + n}" for n in range(len(right)))
    c_names = ", ".join(f"%f{1 + len(left) + len(right) + n}" for n in range(4))
    product = a.astype(np.float64) @ b.astype(np.float64).T + c
    for number in range(4):
        code = (
            f".reg .f32 %d<4>; mma.sync.aligned.m16n8k{depth}.row.col.f32.{name}.{name}.f32 "
            f"{{%d0, %d1, %d2, %d3}}, {{{a_names}}}, {{{b_names}}}, {{{c_names}}}; "
            f"mov.f32 {{0}}, %d{number};"
        )
        found = result(code.replace("{0}", "%f0"), F32, *operands)
        assert_allclose(
            found, product[row + 8 * (number // 2), pair + number % 2], rtol=1e-5, atol=1e-5
        )


def test_matrices_need_the_whole_warp() -> None:
    code = LOAD.format(count=1, trans="", targets="{%t5}", chosen=5).replace("{0}", "%r0")
    with pytest.raises(KernelError, match="ldmatrix needs all 32 lanes"):
        result(code, np.uint32, *[words(24, seed) for seed in range(4)])


# --- branches -------------------------------------------------------------------------------------


def test_a_branch_by_index() -> None:
    code = (
        "TARGETS: .branchtargets ZERO, ONE, TWO; rem.u32 %t1, {1}, 3; brx.idx %t1, TARGETS;"
        "ZERO: mov.u32 {0}, 10; bra.uni DONE; ONE: mov.u32 {0}, 11; bra.uni DONE; "
        "TWO: mov.u32 {0}, 12; DONE: nanosleep.u32 5;"
    )
    assert_array_equal(result(code, np.uint32, words()), words() % 3 + 10)


def test_loops_run_the_right_number_of_times() -> None:
    code = (
        "and.b32 %t1, {1}, 15; mov.u32 {0}, 0; AGAIN: setp.eq.u32 %q, %t1, 0; @%q bra DONE;"
        "add.u32 {0}, {0}, %t1; sub.u32 %t1, %t1, 1; bra AGAIN; DONE: griddepcontrol.wait;"
    )
    count = words() % 16
    assert_array_equal(result(code, np.uint32, words()), count * (count + 1) // 2)
