"""Loads, stores, atomics and asynchronous copies in every space, and the checks on each."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from cullama.emulation.build import compiler
from cullama.emulation.kernel import SCHEDULES, EmulatedModule, KernelError, Schedule
from emulation.probe import BF16, F16, F32, F64, HEADER, floats, integers, module_of, result

Array = NDArray[Any]
WORDS = np.arange(100, 164, dtype=np.uint32)


def kernel(
    body: str, declarations: str = "", parameters: str = ".param .u64 out"
) -> EmulatedModule:
    """One entry, `run`; %at is out's address, %i the thread."""
    return module_of(
        f"{declarations}.visible .entry run({parameters}) {{\n"
        " .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<19>, %i; .reg .f32 %f<9>;\n"
        " .reg .b64 %l<9>, %at;\n"
        " mov.u32 %i, %tid.x; ld.param.u64 %at, [out];\n"
        f"{body}\n ret;\n}}\n"
    )


def run(
    body: str, out: Array, *arguments: Any, threads: int = 1, shared: int = 0, **how: str
) -> Array:
    if arguments:
        names = ", ".join(f".param .u64 in{number}" for number in range(len(arguments)))
        how["parameters"] = f".param .u64 out, {names}"
    kernel(body, **how).launch("run", 1, threads, [out, *arguments], shared)
    return out


# --- global memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hints", ["", ".nc", ".cg", ".L1::no_allocate.L2::256B", ".nc.L1::evict_last"]
)
def test_loads_with_any_hint(hints: str) -> None:
    found = run(
        f"ld.param.u64 %l1, [in0]; ld.global{hints}.u32 %r1, [%l1+8]; st.global.u32 [%at], %r1;",
        np.zeros(1, np.uint32),
        WORDS,
    )
    assert_array_equal(found, WORDS[2:3])


def test_volatile_and_ordered_accesses() -> None:
    body = (
        "ld.param.u64 %l1, [in0]; ld.volatile.global.u32 %r1, [%l1]; "
        "ld.acquire.gpu.global.u32 %r2, [%l1+4];"
        "ld.relaxed.sys.global.u32 %r3, [%l1+8]; add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;"
        "st.release.gpu.global.u32 [%at], %r1; st.volatile.global.u32 [%at+4], %r1; "
        "fence.acq_rel.gpu; membar.gl;"
    )
    assert_array_equal(run(body, np.zeros(2, np.uint32), WORDS), [303, 303])


def test_vectors_are_loaded_and_stored_whole() -> None:
    body = (
        "ld.param.u64 %l1, [in0]; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%l1+16];"
        "ld.global.v2.u64 {%l2, %l3}, [%l1]; ld.global.nc.v4.u16 {%h1, %h2, %h3, %h4}, [%l1+8];"
        "st.global.v4.u32 [%at], {%r4, %r3, %r2, %r1}; st.global.v2.b64 [%at+16], {%l3, %l2};"
        "st.global.v4.u16 [%at+32], {%h4, %h3, %h2, %h1};"
    )
    found = run(body, np.zeros(10, np.uint32), WORDS)
    assert_array_equal(found[:8], WORDS[[7, 6, 5, 4, 2, 3, 0, 1]])
    assert_array_equal(found[8:].view(np.uint16), WORDS[2:4].view(np.uint16)[::-1])


def test_an_address_that_is_overwritten_by_its_load() -> None:
    addresses = run(
        "ld.param.u64 %l1, [in0]; ld.global.v2.u64 {%l1, %l2}, [%l1]; st.global.u64 [%at], %l2;",
        np.zeros(1, np.uint64),
        WORDS,
    )
    assert_array_equal(addresses, WORDS[2:4].view(np.uint64))


@pytest.mark.parametrize(
    ("type", "dtype"), [("s8", np.int8), ("u8", np.uint8), ("s16", np.int16), ("u16", np.uint16)]
)
def test_narrow_loads_extend_by_their_type(type: str, dtype: Any) -> None:
    values = integers(dtype)[:40]
    body = (
        f"ld.param.u64 %l1, [in0]; mad.wide.u32 %l1, %i, {values.itemsize}, %l1; "
        f"ld.global.{type} %r1, [%l1];"
        "mad.wide.u32 %l2, %i, 4, %at; st.global.u32 [%l2], %r1;"
    )
    found = run(body, np.zeros(40, np.int32), values, threads=40)
    assert_array_equal(found, values.astype(np.int32))


def test_stores_keep_to_their_width() -> None:
    body = (
        "mov.u32 %r1, 0x12345678; st.global.u8 [%at+1], %r1; st.global.u16 [%at+4], %r1;"
        "mov.u64 %l1, 0x123456789; st.global.u32 [%at+8], %l1;"
    )
    found = run(body, np.zeros(4, np.uint32))
    assert_array_equal(found, [0x7800, 0x5678, 0x23456789, 0])


def test_writes_just_past_an_array_are_found() -> None:
    """The guard page begins at the next multiple of 16; bytes before it are compared."""
    with pytest.raises(KernelError, match="bytes just past an array of 12 bytes were written"):
        run("st.global.u32 [%at+12], 0;", np.zeros(3, np.uint32))
    with pytest.raises(KernelError, match="illegal address"):
        run("st.global.u32 [%at+16], 0;", np.zeros(3, np.uint32))


LIVE = """
#include <stddef.h>
unsigned long long first; size_t count; int questions;
int is_live(unsigned long long address, size_t size) {
  questions++;
  return address >= first && size <= count && address - first <= count - size;
}
"""


def test_pointers_are_checked_and_results_cached(tmp_path: Path) -> None:
    source, library = tmp_path / "live.c", tmp_path / "live.so"
    source.write_text(LIVE)
    subprocess.run([compiler(), "-shared", "-fPIC", "-o", library, "-x", "c", source], check=True)
    live = ctypes.CDLL(str(library))
    memory = np.zeros(4096, np.uint32)
    first = memory.ctypes.data
    ctypes.c_ulonglong.in_dll(live, "first").value = first
    ctypes.c_size_t.in_dll(live, "count").value = 4 * 4000
    module = kernel(
        "ld.param.u64 %at, [out]; mad.wide.u32 %at, %i, 4, %at; st.global.u32 [%at], %i;"
    )
    module.check_pointers(ctypes.cast(live.is_live, ctypes.c_void_p))
    try:
        module.launch("run", 1, 1000, [first])
        assert_array_equal(memory[:1000], np.arange(1000))
        assert ctypes.c_int.in_dll(live, "questions").value < 200
        before = ctypes.c_int.in_dll(live, "questions").value
        module.launch("run", 1, 1000, [first + 3000 * 4])
        assert ctypes.c_int.in_dll(live, "questions").value == before + 1
        with pytest.raises(
            KernelError, match=f"illegal address 0x{first + 16000:x}: 4 bytes"
        ) as caught:
            module.launch("run", 1, 1000, [first + 3001 * 4])
        assert caught.value.code == 700
        assert "thread (999, 0, 0)" in str(caught.value)
        assert memory[4000] == 0
    finally:
        module.check_pointers(None)


# --- parameters, variables, local memory ----------------------------------------------------------


def test_a_structure_passed_by_value() -> None:
    text = HEADER + (
        ".visible .entry run(.param .u64 out, .param .align 8 .b8 config[24],\n"
        ".param .f32 scale) {\n"
        ".reg .b64 %l<4>; .reg .b32 %r<5>; .reg .f32 %f<2>;\n"
        "ld.param.u64 %l1, [out]; ld.param.v2.u32 {%r1, %r2}, [config]; "
        "ld.param.u64 %l2, [config+8];\n"
        "ld.param.u32 %r3, [config+16]; ld.param.f32 %f1, [scale]; mov.b32 %r4, %f1;\n"
        "st.global.u64 [%l1], %l2; st.global.v2.u32 [%l1+8], {%r1, %r2}; "
        "st.global.v2.u32 [%l1+16], {%r3, %r4};\nret; }"
    )
    type = np.dtype([("a", "i4"), ("b", "i4"), ("c", "u8"), ("d", "i4"), ("pad", "i4")])
    out = np.zeros(6, np.uint32)
    module = EmulatedModule(text)
    assert module.parameter_sizes("run") == [8, 24, 4]
    module.launch("run", 1, 1, [out, np.array((1, 2, 2**40, 5, 0), type)[()], 1.5])
    assert_array_equal(out, [0, 256, 1, 2, 5, np.float32(1.5).view(np.uint32)])


def test_variables_of_the_module() -> None:
    declarations = (
        ".const .align 4 .f32 scales[2] = {0f3F800000, 0f40000000};\n"
        ".global .align 4 .b8 table[8] = {1, 0, 0, 0, 2};\n.global .align 8 .u64 unused = 7;\n"
        ".visible .global .align 4 .u32 counter;\n"
    )
    body = (
        "ld.const.f32 %f1, [scales+4]; ld.global.u32 %r1, [table+4]; mov.u64 %l1, table; "
        "ld.global.nc.u32 %r2, [%l1];"
        "atom.global.add.u32 %r3, [counter], 1; mov.b32 %r4, %f1;"
        "st.global.v4.u32 [%at], {%r4, %r1, %r2, %r3};"
    )
    first = run(body, np.zeros(4, np.uint32), declarations=declarations)
    second = run(body, np.zeros(4, np.uint32), declarations=declarations)
    assert_array_equal(first, [0x40000000, 2, 1, 0])
    assert_array_equal(second, [0x40000000, 2, 1, 1])


def test_local_arrays_belong_to_their_thread() -> None:
    body = (
        ".local .align 8 .b8 depot[40]; .reg .b64 %SP, %SPL; mov.u64 %SPL, depot; "
        "cvta.local.u64 %SP, %SPL;"
        "mad.wide.u32 %l1, %i, 4, %SPL; st.local.u32 [%l1], %i; mad.wide.u32 %l2, %i, 4, %SP; "
        "ld.u32 %r1, [%l2];"
        "isspacep.local %p1, %SP; selp.u32 %r2, 100, 0, %p1; add.u32 %r1, %r1, %r2; "
        "ld.local.u32 %r3, [depot+36];"
        "mad.wide.u32 %l3, %i, 8, %at; st.global.v2.u32 [%l3], {%r1, %r3};"
    )
    found = run(body, np.zeros((8, 2), np.uint32), threads=8)
    assert_array_equal(found[:, 0], np.arange(100, 108))
    assert_array_equal(found[:, 1], np.full(8, 0xFFFFFFFF))  # never written: poison
    assert kernel(body).static_bytes("run") == (0, 40)
    with pytest.raises(KernelError, match="is no local address"):
        run(body.replace("[depot+36]", "[%at]"), np.zeros((8, 2), np.uint32), threads=8)


def test_functions_are_called_with_their_parameters() -> None:
    declarations = (
        ".func (.param .b32 result) factorial(.param .b32 n) {\n"
        ".reg .pred %p1; .reg .b32 %r<5>;\n"
        "ld.param.u32 %r1, [n]; setp.lt.u32 %p1, %r1, 2; @%p1 bra ONE; sub.u32 %r2, %r1, 1;\n"
        "{ .param .b32 a; st.param.b32 [a+0], %r2; .param .b32 b; "
        "call.uni (b), factorial, (a); ld.param.b32 %r3, [b+0]; }\n"
        "mul.lo.u32 %r4, %r3, %r1; st.param.b32 [result+0], %r4; ret;\n"
        "ONE: st.param.b32 [result+0], 1; ret; }\n"
    )
    body = (
        "add.u32 %r1, %i, 1; { .param .b32 a; st.param.b32 [a], %r1; .param .b32 b; "
        "call.uni (b), factorial, (a);"
        "ld.param.b32 %r2, [b]; } mad.wide.u32 %l1, %i, 4, %at; st.global.u32 [%l1], %r2;"
    )
    found = run(body, np.zeros(6, np.uint32), threads=6, declarations=declarations)
    assert_array_equal(found, [1, 2, 6, 24, 120, 720])


# --- shared memory --------------------------------------------------------------------------------


def test_shared_arrays_static_and_dynamic() -> None:
    declarations = ".shared .align 4 .b8 first[16];\n.extern .shared .align 16 .b8 rest[];\n"
    body = (
        ".shared .align 4 .b8 second[16]; mov.u32 %r1, first; mov.u32 %r2, second; "
        "mov.u32 %r3, rest;"
        "st.shared.v4.u32 [%r3], {1, 2, 3, 4}; st.shared.u32 [%r1+4], 5; "
        "st.shared.u32 [second+4], 6;"
        "ld.shared.u32 %r4, [%r3+12]; ld.shared.u32 %r5, [first+4]; "
        "ld.shared.u32 %r6, [%r2+4]; mov.u32 %r7, %dynamic_smem_size;"
        "st.global.v4.u32 [%at], {%r4, %r5, %r6, %r7};"
    )
    found = run(body, np.zeros(4, np.uint32), shared=16, declarations=declarations)
    assert_array_equal(found, [4, 5, 6, 16])
    assert kernel(body, declarations).static_bytes("run") == (32, 0)


def test_generic_addresses_lead_to_their_space() -> None:
    body = (
        ".shared .align 4 .b8 row[16]; mov.u64 %l1, row; cvta.shared.u64 %l2, %l1; "
        "st.u32 [%l2+4], 77;"
        "ld.shared.u32 %r1, [row+4]; cvta.to.shared.u64 %l3, %l2; ld.shared.u32 %r2, [%l3+4]; "
        "isspacep.shared %p1, %l2;"
        "isspacep.global %p2, %at; isspacep.shared %p3, %at; selp.u32 %r3, 1, 0, %p1; "
        "selp.u32 %r4, 2, 0, %p2;"
        "selp.u32 %r5, 4, 0, %p3; add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; "
        "cvta.to.global.u64 %l4, %at;"
        "st.v4.u32 [%l4], {%r1, %r2, %r3, 9};"
    )
    assert_array_equal(run(body, np.zeros(4, np.uint32)), [77, 77, 3, 9])


def test_shared_memory_is_poisoned_at_the_start_of_every_block() -> None:
    body = (
        ".shared .align 4 .b8 row[4]; mov.u32 %r2, %ctaid.x; mad.wide.u32 %l1, %r2, 4, %at; "
        "ld.shared.u32 %r1, [row];"
        "st.global.u32 [%l1], %r1; st.shared.u32 [row], 0;"
    )
    out = np.zeros(3, np.uint32)
    kernel(body).launch("run", 3, 1, [out])
    assert_array_equal(out, np.full(3, 0xFFFFFFFF))


@pytest.mark.parametrize("offset", [-4, 16, 20, 300, 1 << 20])
def test_every_shared_access_is_checked(offset: int) -> None:
    body = (
        ".shared .align 16 .b8 row[16]; mov.u32 %r1, row;"
        f"add.u32 %r1, %r1, {offset}; ld.shared.u32 %r2, [%r1];"
    )
    with pytest.raises(KernelError, match="is in no array") as caught:
        run(body, np.zeros(1, np.uint32))
    assert caught.value.code == 700


def test_a_vector_that_ends_out_of_bounds_is_reported() -> None:
    body = ".shared .align 16 .b8 row[24]; ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [row+16];"
    with pytest.raises(KernelError, match="is in no array"):
        run(body, np.zeros(1, np.uint32))


# --- atomics --------------------------------------------------------------------------------------

SLOT = ".shared .align 8 .b8 row[8192]; mov.u32 %t1, row; mad.lo.u32 %t1, %i, 8, %t1;"
INTEGER_ATOMICS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda a, b: b,
}
TYPES = {
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "b32": np.uint32,
    "b64": np.uint64,
}


@pytest.mark.parametrize("type", TYPES)
def test_atomic_integers(type: str) -> None:
    a, b = (integers(TYPES[type], seed) for seed in range(2))
    for name, expected in INTEGER_ATOMICS.items():
        if (type[0] == "b") != (name in ("and", "or", "xor", "exch")):
            continue
        code = (
            f"{SLOT} st.shared.{type} [%t1], {{1}}; atom.shared.{name}.{type} {{0}}, [%t1], {{2}};"
            f"red.shared.{name}.{type} [%t1], {{2}};"
        )
        old = result(code, a.dtype, a, b)
        assert_array_equal(old, a)
        new = result(code + f"ld.shared.{type} {{0}}, [%t1];", a.dtype, a, b)
        once = expected(a, b)
        assert_array_equal(new, expected(once, b), err_msg=name)


def test_compare_and_swap_and_counters() -> None:
    a, b = (integers(np.uint32, seed) for seed in range(2))
    b[::2] = a[::2]
    start = f"{SLOT} st.shared.u32 [%t1], {{1}}; "
    end = " ld.shared.u32 {0}, [%t1];"
    swapped = result(start + "atom.shared.cas.b32 %t2, [%t1], {2}, 7;" + end, np.uint32, a, b)
    assert_array_equal(swapped, np.where(a == b, 7, a))
    up = result(start + "atom.shared.inc.u32 %t2, [%t1], {2};" + end, np.uint32, a, b)
    assert_array_equal(up, np.where(a >= b, 0, a + 1))
    down = result(start + "atom.shared.dec.u32 %t2, [%t1], {2};" + end, np.uint32, a, b)
    assert_array_equal(down, np.where((a == 0) | (a > b), b, a - 1))


FLOAT_ATOMICS = [("f32", F32, "%f1"), ("f64", F64, "%g1")]
FLOAT_ATOMICS += [("noftz.f16", F16, "%h1"), ("noftz.bf16", BF16, "%h1")]


@pytest.mark.parametrize(("type", "dtype", "register"), FLOAT_ATOMICS)
def test_atomic_floats(type: str, dtype: Any, register: str) -> None:
    values = np.abs(floats(dtype, 3, 90)[:100].astype(F64))
    values = np.where((values < 1e3) & (values > 1e-3), values, 1).astype(dtype)
    total = np.zeros(1, dtype)
    move = {2: "b16", 4: "f32", 8: "f64"}[values.itemsize]
    text = (
        ".visible .entry run(.param .u64 out, .param .u64 in) { .reg .b64 %l<4>; .reg .b32 %i; "
        ".reg .f32 %f<3>;"
        ".reg .f64 %g<3>; .reg .b16 %h<3>; mov.u32 %i, %tid.x; ld.param.u64 %l1, [out]; "
        "ld.param.u64 %l2, [in];"
        f"mad.wide.u32 %l2, %i, {values.itemsize}, %l2; ld.global.{move} {register}, [%l2];"
        f"red.global.add.{type} [%l1], {register}; ret; }}"
    )
    module_of(text).launch("run", 1, 100, [total, values])
    expected = np.zeros((), dtype)
    for value in values:
        expected = (expected.astype(F64) + value.astype(F64)).astype(dtype)
    assert total[0] == expected


# --- asynchronous copies --------------------------------------------------------------------------

COPY = (
    ".shared .align 16 .b8 row[64]; mov.u32 %r1, row; ld.param.u64 %l1, [in0]; "
    "st.shared.u32 [%r1], 1; st.shared.u32 [%r1+4], 1;"
    "{copy} cp.async.commit_group; ld.shared.u32 %r2, [%r1]; cp.async.wait_group 0; "
    "ld.shared.v2.u32 {{%r3, %r4}}, [%r1];"
    "st.global.v4.u32 [%at], {{%r2, %r3, %r4, %r2}};"
)


@pytest.mark.parametrize(("is_eager", "before"), [(False, 1), (True, 100)])
def test_asynchronous_copies_run_as_early_or_late_as_allowed(is_eager: bool, before: int) -> None:
    for copy in (
        "cp.async.cg.shared.global [%r1], [%l1], 16;",
        "cp.async.ca.shared::cta.global.L2::128B [%r1], [%l1], 8;",
    ):
        out = np.zeros(4, np.uint32)
        module = kernel(COPY.format(copy=copy), parameters=".param .u64 out, .param .u64 in0")
        module.launch("run", 1, 1, [out, WORDS], schedule=Schedule(has_eager_copies=is_eager))
        assert_array_equal(out[:3], [before, 100, 101])


@pytest.mark.parametrize("schedule", [SCHEDULES[0], SCHEDULES[3]], ids=str)
def test_copies_of_fewer_bytes_are_padded_with_zeros(schedule: Schedule) -> None:
    cases = {"16, 4": [100, 0], "16, %r9": [0, 0], "8, %p9": [0, 0]}
    for operands, expected in cases.items():
        if "%p9" in operands:
            prepare, operands = "setp.eq.u32 %p8, %r1, %r1;", "8, %p8"
        else:
            prepare = "mov.u32 %r9, 0;"
        copy = f"{prepare} cp.async.ca.shared.global [%r1], [%l1], {operands};"
        out = np.zeros(4, np.uint32)
        if "16" in operands:
            copy = copy.replace(".ca", ".cg")
        module = kernel(COPY.format(copy=copy), parameters=".param .u64 out, .param .u64 in0")
        module.launch("run", 1, 1, [out, WORDS], schedule=schedule)
        assert_array_equal(out[1:3], expected)


def test_a_group_waits_for_its_own_copies_only() -> None:
    body = (
        ".shared .align 16 .b8 row[64]; mov.u32 %r1, row; ld.param.u64 %l1, [in0];"
        "cp.async.ca.shared.global [%r1], [%l1], 4; cp.async.commit_group;"
        "cp.async.ca.shared.global [%r1+4], [%l1+4], 4; cp.async.commit_group; "
        "cp.async.wait_group 1;"
        "ld.shared.v2.u32 {%r2, %r3}, [%r1]; cp.async.wait_all; ld.shared.u32 %r4, [%r1+4];"
        "st.global.v4.u32 [%at], {%r2, %r3, %r4, %r4};"
    )
    found = run(body, np.zeros(4, np.uint32), WORDS)
    assert_array_equal(found[:3], [100, 0xFFFFFFFF, 101])
