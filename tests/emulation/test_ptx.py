"""PTX is parsed into plain data; unsupported instructions are refused by name and line."""

from __future__ import annotations

import pytest

from cullama.emulation.ptx import (
    Label,
    PtxError,
    PtxVariable,
    Source,
    alone,
    entries_of,
    has_shared_variables,
    parse,
)
from cullama.emulation.translate import Translator
from emulation.probe import HEADER

KERNEL = """
.version 8.0   // of CUDA 12.0
.target sm_90a, debug
.address_size 64
.file 1 "kernels/scale.cu"
.file 2 "/usr/include/other.h"

/* a comment
   of two lines */
.const .align 4 .f32 scales[2] = {0f3F800000, 0f40000000};
.shared .align 16 .b8 row[128];
.extern .shared .align 16 .b8 rest[];
.extern .func (.param .b32 result) elsewhere ( .param .b64 a ) ;

.visible .entry scale(
\t.param .u64 .ptr .global .align 16 scale_param_0,
\t.param .align 8 .b8 scale_param_1[24]
)
.maxntid 128, 2, 1
.minnctapersm 2
{
\t.reg .pred %p<2>;
\t.reg .b32 %r<3>, extra;
\t.local .align 8 .b8 depot[16];
\t.loc 1 12 5
\tmov.u32 %r0, %tid.x;
$AGAIN:
\t{ .reg .b32 %t; mov.b32 %t, {0, 1}; }
\t{ .reg .b32 %t;
\t  .loc 2 99 1, function_name $name, inlined_at 1 14 3
\t  add.s32 %t, %r0, -1; $AGAIN: bra $AGAIN; }
\t@!%p1 bra.uni $AGAIN; ret;
}
.section .debug_str { $name: .b8 1,2,3 .b8 4 }
"""


def test_a_module_s_head() -> None:
    module = parse(KERNEL)
    assert module.version == (8, 0)
    assert module.target == "sm_90a"
    scales, row, rest = module.variables
    assert scales == PtxVariable("const", "scales", "f32", 2, 4, ("0f3F800000", "0f40000000"))
    assert (row.space, row.size, row.align) == ("shared", 128, 16)
    assert rest.size == 0


def test_an_entry_s_parameters_and_limits() -> None:
    (entry,) = parse(KERNEL).entries
    assert entry.name == "scale"
    assert [(p.name, p.size, p.align) for p in entry.parameters] == [
        ("scale_param_0", 8, 8),
        ("scale_param_1", 24, 8),
    ]
    assert entry.max_threads == 256
    assert [(v.space, v.name, v.size) for v in entry.variables] == [("local", "depot", 16)]
    assert entry.registers["%r2"] == entry.registers["extra"] == "b32"


def test_names_of_inner_scopes_are_made_unique() -> None:
    (entry,) = parse(KERNEL).entries
    assert entry.registers["%t.1"] == entry.registers["%t.2"] == "b32"
    first, second, third, fourth, fifth, _ = entry.instructions()
    assert second.operands == ("%t.1", "{0, 1}")
    assert third.operands == ("%t.2", "%r0", "-1")
    assert fourth.operands == ("$AGAIN.2",)
    assert fifth.operands == ("$AGAIN",)
    assert [item.name for item in entry.body if isinstance(item, Label)] == ["$AGAIN", "$AGAIN.2"]
    assert (fifth.guard, fifth.is_negated, first.guard) == ("%p1", True, "")


def test_instructions_know_their_lines_in_the_ptx_and_in_the_source() -> None:
    (entry,) = parse(KERNEL).entries
    first, _, third, *_ = entry.instructions()
    assert KERNEL.splitlines()[first.line - 1].strip() == "mov.u32 %r0, %tid.x;"
    assert first.source == Source("kernels/scale.cu", 12)
    assert third.source == Source("kernels/scale.cu", 14)  # the call, not the header's line


def body(text: str) -> str:
    registers = (
        ".reg .b32 %r<9>; .reg .f32 %f<9>; .reg .pred %p<3>; .reg .f64 %g<3>; .reg .b16 %h<3>;"
    )
    return f"{HEADER}.visible .entry run() {{ {registers}\n{text}\n}}"


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.u32 %r1, %r2;",
        "add.wide.u32 %r1, %r2, %r3;",
        "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%r1];",
        "wgmma.fence.sync.aligned;",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r2}, {%r3}, {%r4};",
        "call.uni vprintf, (%r1);",
        "fma.rz.f64 %g1, %g1, %g1, %g1;",
        "setp.odd.f32 %p1, %f1, %f2;",
        "mov.u32 %r1, %unheard_of;",
        "mov.u32 %r1, unknown_name;",
        "add.f32 %undeclared, %f1, %f2;",
        "ld.global.e4m3 %r1, [%r2];",
    ],
)
def test_unknown_instructions_are_refused_by_name_and_line(instruction: str) -> None:
    with pytest.raises(PtxError, match=r"line 5: `.*`: unknown ") as caught:
        Translator(parse(body(instruction))).whole()
    assert instruction.split()[0].rstrip(";") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not PTX"),
        (".version 8.0\n", "no .target"),
        (HEADER + ".visible .entry f() {\n", "the '{' here is not closed"),
        (HEADER + "}\n", "'}' without '{'"),
        (HEADER + ".visible .entry f() { ret }", "no ';' behind 'ret'"),
        (HEADER + "some rubbish;", "unknown declaration"),
        (HEADER + ".global .u64 p = other;", "addresses are not supported"),
    ],
)
def test_texts_that_are_not_ptx_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(PtxError, match=complaint):
        Translator(parse(text)).whole()


TWO = """.version 8.0
.target sm_80
.visible .entry first(.param .u64 p)
{
 { ret; } // a brace of a comment: {
}
.visible .entry second()
{
 ret;
}
"""


def test_a_kernel_alone_keeps_its_lines_and_loses_the_others() -> None:
    assert entries_of(TWO) == ["first", "second"]
    module = parse(alone(TWO, "second"))
    (kernel,) = module.functions
    assert [(i.opcode, i.line) for i in kernel.instructions()] == [("ret", 9)]
    assert [f.name for f in parse(alone(TWO, "first")).functions] == ["first"]


def test_kernels_that_share_a_variable_are_known() -> None:
    shared = TWO.replace(".visible .entry first", ".global .u32 counter;\n.visible .entry first")
    assert has_shared_variables(shared)
    assert not has_shared_variables(TWO)
