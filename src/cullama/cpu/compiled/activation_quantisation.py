"""Quantises activations to 16-bit integers, for integer dot products with quantised weights.

The dots are exact; the activations are rounded. Each group of 32 columns has a scale of its own,
the largest magnitude / 32512. Where the instruction set multiplies bytes, an integer is stored as a
high and a low byte, both from −128 to 127. The error is less than 2⁻¹⁵ of the group's largest
number: 1/256 of that of eight bits, and far below that of the weights.

A group's record: 32 high bytes and 32 low ones, or the 16-bit integers themselves where words are
multiplied (`dots.py`); the scale, scale · sum, and the sums of both halves.
"""

from __future__ import annotations

from types import SimpleNamespace

from ...files.quantized_blocks import GROUP
from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I8, I16, I32, I64, POINTER, KernelBuilder, Value, vector

# Offsets in a record.
HIGH, LOW, WORDS = 0, GROUP, 0
SCALE, SCALED_SUM, SUMS = 2 * GROUP, 2 * GROUP + 4, 2 * GROUP + 8

RECORD = 80  # bytes

# Of each four columns the words of even ones come first, as `dots.py` widens quants.
WORD_ORDER = (0, 2, 1, 3)

MAX_QUANT = 127 * 256.0  # the high byte still fits when the low one is negative

# A group whose numbers are all smaller is quantised to zeros: its scale has no finite inverse.
MIN_MAGNITUDE = 1e-34

GROUPS_IN_CHUNK = 256


def _quantise_chunk(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    start = chunk * GROUPS_IN_CHUNK
    with builder.loop((start + GROUPS_IN_CHUNK).minimum(a.groups), start) as group:
        x, out = a.x + group * (GROUP * 4), a.out + group * RECORD
        first, second = (builder.load(vector(F32, 16), x + 64 * half) for half in range(2))
        largest = builder.abs(first).maximum(builder.abs(second)).reduce_max()
        scale = largest * (1 / MAX_QUANT)
        # Plus 0, or NaN where one of the numbers is infinite or NaN: no product may hide that.
        scale = scale + ((first - first) + (second - second)).reduce_add()
        inverse = (largest > MIN_MAGNITUDE).select(builder.constant(F32, MAX_QUANT) / largest, 0.0)
        sums = []
        for half, numbers in enumerate((first, second)):
            quants = builder.rint(numbers * inverse).to(I32)
            _store_quants(builder, quants, half, out)
            sums.append(quants.reduce_add())
            builder.store(sums[half], out + (SUMS + 4 * half))
        builder.store(scale, out + SCALE)
        builder.store((sums[0] + sums[1]).to(F32) * scale, out + SCALED_SUM)


def _store_quants(builder: KernelBuilder, quants: Value, half: int, out: Value) -> None:
    if builder.instruction_set.multiplies == "words":
        order = [first + i for first in range(0, 16, 4) for i in WORD_ORDER]
        builder.store(quants.to(I16).shuffle(order), out + (WORDS + 32 * half))
        return
    high = (quants + 128).arithmetic_shift_right(8)
    low = quants - (high << 8)
    builder.store(high.to(I8), out + (HIGH + 16 * half))
    builder.store(low.to(I8), out + (LOW + 16 * half))


QUANTISE_ACTIVATIONS = Kernel(
    "quantise_activations", {"x": POINTER, "out": POINTER, "groups": I64}, _quantise_chunk
)
