"""Activations as whole numbers of 16 bits, so that they meet 8- and 4-bit weights exactly.

Each group of 32 columns has a scale of its own, the largest magnitude / 32512; a number is two
digits to the base 256, both from −128 to 127, because a dot product takes bytes. What is lost is
less than 2⁻¹⁵ of the group's largest number: a hundredth of what eight bits would lose, and far
below what the weights have lost already.

A group's record: 32 high digits and 32 low ones, or the numbers themselves where words are
multiplied (`dots.py`); the scale, scale · sum, and the sums of both halves.
"""

from __future__ import annotations

from types import SimpleNamespace

from ..jit.compiler import Kernel
from ..jit.kernel_builder import F32, I8, I16, I32, I64, POINTER, KernelBuilder, Value, vector
from ..packed import GROUP

HIGH, LOW, WORDS = 0, GROUP, 0
SCALE, SCALED_SUM, SUMS, RECORD = 2 * GROUP, 2 * GROUP + 4, 2 * GROUP + 8, 80

# Of four columns' words the even ones come first: so codes come apart when they are widened.
WORD_ORDER = (0, 2, 1, 3)

LARGEST = 127 * 256.0  # so that the high digit fits a byte after the low one is rounded off

NOTHING = 1e-34  # a group whose numbers are all smaller counts as zeros: its scale has no inverse

GROUPS_IN_CHUNK = 256


def _digits(builder: KernelBuilder, a: SimpleNamespace, chunk: Value) -> None:
    first = chunk * GROUPS_IN_CHUNK
    with builder.loop((first + GROUPS_IN_CHUNK).minimum(a.groups), first) as group:
        _group(builder, a.x + group * (GROUP * 4), a.out + group * RECORD)


def _group(builder: KernelBuilder, x: Value, out: Value) -> None:
    halves = [builder.load(vector(F32, 16), x + 64 * half) for half in range(2)]
    highest = builder.abs(halves[0]).maximum(builder.abs(halves[1])).reduce_max()
    scale = highest * (1 / LARGEST) + _unsound(halves)
    inverse = (highest > NOTHING).select(builder.constant(F32, LARGEST) / highest, 0.0)
    sums = []
    for half, numbers in enumerate(halves):
        whole = builder.rint(numbers * inverse).to(I32)
        _store(builder, whole, half, out)
        sums.append(whole.reduce_add())
        builder.store(sums[half], out + (SUMS + 4 * half))
    builder.store(scale, out + SCALE)
    builder.store((sums[0] + sums[1]).to(F32) * scale, out + SCALED_SUM)


def _store(builder: KernelBuilder, whole: Value, half: int, out: Value) -> None:
    if builder.instruction_set.multiplies == "words":
        order = [quad + i for quad in range(0, 16, 4) for i in WORD_ORDER]
        builder.store(whole.to(I16).shuffle(order), out + (WORDS + 32 * half))
        return
    high = (whole + 128).arithmetic_shift_right(8)
    low = whole - (high << 8)
    builder.store(high.to(I8), out + (HIGH + 16 * half))
    builder.store(low.to(I8), out + (LOW + 16 * half))


def _unsound(halves: list[Value]) -> Value:
    """0, or NaN where one of the numbers is infinite or no number: then no product may be one."""
    low, high = halves
    return ((low - low) + (high - high)).reduce_add()


DIGITS = Kernel("digits", {"x": POINTER, "out": POINTER, "groups": I64}, _digits)
