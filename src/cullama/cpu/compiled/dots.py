"""Codes of weights times whole numbers of activations, in each instruction set's own words.

Sixteen sums, one for each row of a panel; the numbers are the same for all rows. A processor that
multiplies bytes meets four columns' codes with both digits of the numbers (`digits.py`) and puts
the two sums together. The others widen codes to 16 bits, and two columns meet the numbers
themselves. Every sum is exact, so all instruction sets find the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ..jit.instruction_sets import architecture
from ..jit.kernel_builder import I16, I32, KernelBuilder, Value, vector
from ..packed import PANEL, Grouped
from .digits import HIGH, LOW, SUMS, WORDS

# (code, a register of sums, codes of as many rows, numbers for each row) → sums
Dot: TypeAlias = Callable[[KernelBuilder, Value, Value, Value], Value]

Sums: TypeAlias = list[Value]  # of sixteen rows, in registers


def whole(
    builder: KernelBuilder, format_: Grouped, quads: Sequence[Value], group: Value, scale: int
) -> Value:
    """Σ (code − offset) · number over the columns of one of a group's scales: [16 × i32].

    `quads`: their codes, [64 × i8] for four columns; `group`: the numbers' record.
    """
    offset, first = format_.offset, scale * len(quads)
    if builder.instruction_set.name == "neon" and format_.bits == 8:
        quads, offset = [quad ^ 128 for quad in quads], offset - 128  # SDOT's bytes are signed
    if builder.instruction_set.multiplies == "bytes":
        found = _by_bytes(builder, quads, group, first)
    else:
        found = _by_words(builder, quads, group, first)
    if not offset:
        return found
    total = builder.load(I32, group + (SUMS + 4 * scale))
    if format_.scales == 1:
        total = total + builder.load(I32, group + (SUMS + 4))
    return found - (total * offset).splat(PANEL)


def _by_bytes(builder: KernelBuilder, quads: Sequence[Value], group: Value, first: int) -> Value:
    sums = {HIGH: _nothing(builder), LOW: _nothing(builder)}
    for i, quad in enumerate(quads, first):
        for digit, before in sums.items():
            sums[digit] = _gained(builder, before, quad, group + (digit + 4 * i))
    return (joined(builder, sums[HIGH]) << 8) + joined(builder, sums[LOW])


def _by_words(builder: KernelBuilder, quads: Sequence[Value], group: Value, first: int) -> Value:
    sums = _nothing(builder)
    for i, quad in enumerate(quads, first):
        pairs = quad.bitcast(vector(I16, 2 * PANEL))  # column 0 below column 1, and 2 below 3
        sums = _gained(builder, sums, pairs & 255, group + (WORDS + 8 * i))
        sums = _gained(builder, sums, pairs >> 8, group + (WORDS + 8 * i + 4))
    return joined(builder, sums)


def _nothing(builder: KernelBuilder) -> Sums:
    lanes = builder.instruction_set.lanes
    return [builder.constant(vector(I32, lanes), 0)] * (PANEL // lanes)


def _gained(builder: KernelBuilder, sums: Sums, codes: Value, numbers: Value) -> Sums:
    """Sums, with the products of some columns' codes and the numbers at an address."""
    dot = DOTS[builder.instruction_set.name]
    registers = _parts(codes, len(sums))
    for_each = builder.load(I32, numbers).splat(sums[0].lanes).bitcast(registers[0].type)
    return [
        dot(builder, total, register, for_each)
        for total, register in zip(sums, registers, strict=True)
    ]


# --- one instruction, or two ---------------------------------------------------------------------


def _avx512(builder: KernelBuilder, sums: Value, codes: Value, digits: Value) -> Value:
    return builder.call("llvm.x86.avx512.vpdpbusd.512", sums.type, sums, codes, digits)


def _avxvnni(builder: KernelBuilder, sums: Value, codes: Value, digits: Value) -> Value:
    """The same instruction by another name."""
    dot = builder.call("llvm.x86.avx512.vpdpbusd.256", sums.type, sums, codes, digits)
    return _in_order(builder, dot, "x")


def _avx2(builder: KernelBuilder, sums: Value, codes: Value, numbers: Value) -> Value:
    products = builder.call("llvm.x86.avx2.pmadd.wd", sums.type, codes, numbers)
    return _in_order(builder, sums + products, "x")


def _neon(builder: KernelBuilder, sums: Value, codes: Value, digits: Value) -> Value:
    """USDOT, which takes unsigned codes, is not in every processor that has SDOT."""
    dot = builder.call("llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, sums, codes, digits)
    return _in_order(builder, dot, "w")


def _plain(builder: KernelBuilder, sums: Value, codes: Value, numbers: Value) -> Value:
    if architecture(builder.function.module.triple) == "x86_64":  # SSE2 is in all of them
        return sums + builder.call("llvm.x86.sse2.pmadd.wd", sums.type, codes, numbers)
    pairs, both = codes.bitcast(sums.type), numbers.bitcast(sums.type)
    first = (pairs & 0xFFFF) * (both << 16).arithmetic_shift_right(16)
    return sums + first + (pairs >> 16) * both.arithmetic_shift_right(16)


DOTS: dict[str, Dot] = {
    "avx512": _avx512,
    "avxvnni": _avxvnni,
    "avx2": _avx2,
    "neon": _neon,
    "plain": _plain,
}


def _in_order(builder: KernelBuilder, sums: Value, register: str) -> Value:
    """The sums, added up here and not later.

    LLVM would do all columns of one part of the rows before it begins the next, and run out of
    registers for the numbers. An assembly of no instructions holds its place.
    """
    type_ = ir.FunctionType(sums.type, [sums.type])
    nothing = ir.InlineAsm(type_, "", f"={register},0", side_effect=True)
    return Value(builder, builder.llvm.call(nothing, [sums.ir]))


def _parts(whole: Value, count: int) -> list[Value]:
    parts = [whole]
    while len(parts) < count:
        parts = [half for part in parts for half in part.halves()]
    return parts


def joined(builder: KernelBuilder, parts: Sequence[Value]) -> Value:
    """Vectors, one after the other: one, two, four …"""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [low.shuffle(range(2 * low.lanes), high) for low, high in pairs]
    return parts[0]
