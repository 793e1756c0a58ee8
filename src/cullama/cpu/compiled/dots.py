"""The dot product of bytes, in each instruction set's own words.

Sixteen sums, one for each row of a panel: a sum gains four codes (0 … 255) times four digits
(−128 … 127) of the activations, which are the same for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .code import I8, I16, I32, Code, Value, vector

# (code, sums [16 × i32], codes [64 × i8], four digits in an i32, bits of a code) → sums
Dot: TypeAlias = Callable[[Code, Value, Value, Value, int], Value]


def _avx512(code: Code, sums: Value, codes: Value, digits: Value, bits: int) -> Value:
    """VNNI: one instruction."""
    quads = digits.spread(16).bits(codes.type)
    return code.call("llvm.x86.avx512.vpdpbusd.512", sums.type, sums, codes, quads)


def _avx2(code: Code, sums: Value, codes: Value, digits: Value, bits: int) -> Value:
    """Pairs of products in 16 bits, then pairs of those."""
    quads = digits.spread(8).bits(vector(I8, 32))
    parts = [_avx2_half(code, half, quads, bits) for half in codes.folded()]
    return sums + joined(code, parts)


def _avx2_half(code: Code, codes: Value, quads: Value, bits: int) -> Value:
    if bits < 8:  # two products of a small code and a digit fit 16 bits
        pairs = code.call("llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), codes, quads)
        return _pairs_added(code, pairs)
    # Two of a large one may not: one half of the code at a time.
    low = code.call("llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), codes & 15, quads)
    high = code.call(
        "llvm.x86.avx2.pmadd.ub.sw",
        vector(I16, 16),
        (codes.bits(vector(I16, 16)) >> 4).bits(codes.type) & 15,
        quads,
    )
    return _pairs_added(code, low) + (_pairs_added(code, high) << 4)


def _pairs_added(code: Code, pairs: Value) -> Value:
    ones = code.constant(vector(I16, 16), 1)
    return code.call("llvm.x86.avx2.pmadd.wd", vector(I32, 8), pairs, ones)


def _neon(code: Code, sums: Value, codes: Value, digits: Value, bits: int) -> Value:
    """USDOT is not in every ARMv8.2, UDOT and SDOT are: signed codes where they reach 128."""
    quads = digits.spread(4).bits(vector(I8, 16))
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    if bits == 8:
        codes = codes ^ 128
    quarters = [quarter for half in codes.folded() for quarter in half.folded()]
    before = [quarter for half in sums.folded() for quarter in half.folded()]
    parts = [
        code.call(name, vector(I32, 4), total, quarter, quads)
        for total, quarter in zip(before, quarters, strict=True)
    ]
    whole = joined(code, [joined(code, parts[:2]), joined(code, parts[2:])])
    if bits == 8:
        whole = whole + (_digit_sum(code, digits) << 7)
    return whole


def _digit_sum(code: Code, digits: Value) -> Value:
    four = digits.bits(vector(I8, 4)).to(I32)
    return four.total()


def _plain(code: Code, sums: Value, codes: Value, digits: Value, bits: int) -> Value:
    """One column after the other."""
    for column in range(4):
        digit = digits << (24 - 8 * column)
        digit = digit.shifted_right(24)
        column_codes = codes.lanes_at(range(column, 64, 4)).to(I32, signed=False)
        sums = sums + column_codes * digit.spread(16)
    return sums


def joined(code: Code, halves: list[Value]) -> Value:
    """Two vectors, one after the other."""
    lanes = halves[0].lanes
    return code.joined(halves[0], halves[1], range(2 * lanes))


DOTS: dict[str, Dot] = {"avx512": _avx512, "avx2": _avx2, "neon": _neon, "plain": _plain}
