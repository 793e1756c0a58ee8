"""Integer dot products of quantised weights and activations, in each instruction set's own way.

Each yields sixteen sums, one for each row of a panel; the activations are the same for all rows.
Processors that multiply bytes take the quants of four columns at once, times the high and times the
low bytes of the activations (`activation_quantisation.py`), and combine the two sums. The others
widen quants to 16 bits and take two columns at once. Every sum is exact, so all instruction sets
yield the same. Scales and minimums are `products.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ..jit.instruction_sets import architecture_of
from ..jit.kernel_builder import I16, I32, KernelBuilder, Value, vector
from ..packed import PANEL, Grouped
from .activation_quantisation import HIGH, LOW, SUMS, WORDS

# (builder, a register of sums, quants of as many rows, activations for each row) → sums
Dot: TypeAlias = Callable[[KernelBuilder, Value, Value, Value], Value]

Sums: TypeAlias = list[Value]  # of sixteen rows, in registers


def int_dot(
    builder: KernelBuilder, format_: Grouped, packed4: Sequence[Value], record: Value, scale: int
) -> Value:
    """Σ (quant − offset) · activation over the columns of one scale: [16 × i32].

    Args:
        packed4: the columns' quants, [64 × i8] for four columns each.
        record: the address of the group's activations.
        scale: which of the group's scales.
    """
    offset, first = format_.layout.offset, scale * len(packed4)
    if builder.instruction_set.name == "neon" and format_.layout.bits == 8:
        # SDOT's bytes are signed.
        packed4, offset = [quants ^ 128 for quants in packed4], offset - 128
    if builder.instruction_set.multiplies == "bytes":
        dot = _dot_bytes(builder, packed4, record, first)
    else:
        dot = _dot_words(builder, packed4, record, first)
    if not offset:
        return dot
    total = builder.load(I32, record + (SUMS + 4 * scale))
    if format_.layout.scales_per_group == 1:
        total = total + builder.load(I32, record + (SUMS + 4))
    return dot - (total * offset).splat(PANEL)


def _dot_bytes(
    builder: KernelBuilder, packed4: Sequence[Value], record: Value, first: int
) -> Value:
    sums = {HIGH: _zeros(builder), LOW: _zeros(builder)}
    for i, quants in enumerate(packed4, first):
        for half, before in sums.items():
            sums[half] = _accumulate(builder, before, quants, record + (half + 4 * i))
    return (concatenate(sums[HIGH]) << 8) + concatenate(sums[LOW])


def _dot_words(
    builder: KernelBuilder, packed4: Sequence[Value], record: Value, first: int
) -> Value:
    sums = _zeros(builder)
    for i, quants in enumerate(packed4, first):
        pairs = quants.bitcast(vector(I16, 2 * PANEL))  # column 0 below column 1, and 2 below 3
        sums = _accumulate(builder, sums, pairs & 255, record + (WORDS + 8 * i))
        sums = _accumulate(builder, sums, pairs >> 8, record + (WORDS + 8 * i + 4))
    return concatenate(sums)


def _zeros(builder: KernelBuilder) -> Sums:
    lanes = builder.instruction_set.lanes
    return [builder.constant(vector(I32, lanes), 0)] * (PANEL // lanes)


def _accumulate(builder: KernelBuilder, sums: Sums, quants: Value, activations: Value) -> Sums:
    """Add the products of some columns' quants and the activations at an address."""
    dot = DOTS[builder.instruction_set.name]
    registers = [quants]
    while len(registers) < len(sums):
        registers = [half for register in registers for half in register.halves()]
    lanes = builder.load(I32, activations).splat(sums[0].lanes).bitcast(registers[0].type)
    return [
        dot(builder, total, register, lanes)
        for total, register in zip(sums, registers, strict=True)
    ]


def concatenate(parts: Sequence[Value]) -> Value:
    """Concatenate vectors: one, two, four …"""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [low.shuffle(range(2 * low.lanes), high) for low, high in pairs]
    return parts[0]


# --- one instruction, or two ---------------------------------------------------------------------


def _avx512(builder: KernelBuilder, sums: Value, quants: Value, activations: Value) -> Value:
    return builder.call("llvm.x86.avx512.vpdpbusd.512", sums.type, sums, quants, activations)


def _avxvnni(builder: KernelBuilder, sums: Value, quants: Value, activations: Value) -> Value:
    """The same instruction by another name."""
    dot = builder.call("llvm.x86.avx512.vpdpbusd.256", sums.type, sums, quants, activations)
    return _keep_order(builder, dot, "x")


def _avx2(builder: KernelBuilder, sums: Value, quants: Value, activations: Value) -> Value:
    products = builder.call("llvm.x86.avx2.pmadd.wd", sums.type, quants, activations)
    return _keep_order(builder, sums + products, "x")


def _neon(builder: KernelBuilder, sums: Value, quants: Value, activations: Value) -> Value:
    """USDOT, which takes unsigned quants, is not in every processor that has SDOT."""
    dot = builder.call("llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, sums, quants, activations)
    return _keep_order(builder, dot, "w")


def _plain(builder: KernelBuilder, sums: Value, quants: Value, activations: Value) -> Value:
    if architecture_of(builder.function.module.triple) == "x86_64":  # SSE2 is in all of them
        return sums + builder.call("llvm.x86.sse2.pmadd.wd", sums.type, quants, activations)
    pairs, both = quants.bitcast(sums.type), activations.bitcast(sums.type)
    first = (pairs & 0xFFFF) * (both << 16).arithmetic_shift_right(16)
    return sums + first + (pairs >> 16) * both.arithmetic_shift_right(16)


DOTS: dict[str, Dot] = {
    "avx512": _avx512,
    "avxvnni": _avxvnni,
    "avx2": _avx2,
    "neon": _neon,
    "plain": _plain,
}


def _keep_order(builder: KernelBuilder, sums: Value, register: str) -> Value:
    """Return the sums by way of an empty assembly, which LLVM does not move.

    LLVM would do all columns of one part of the rows before it begins the next, and run out of
    registers for the activations.
    """
    type_ = ir.FunctionType(sums.type, [sums.type])
    nothing = ir.InlineAsm(type_, "", f"={register},0", side_effect=True)
    return Value(builder, builder.llvm.call(nothing, [sums.ir]))
