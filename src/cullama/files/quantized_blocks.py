"""The layouts of quantised blocks: which fields a block has, and how its quants are unpacked.

This is the one statement of them. A number is scale · (quant − offset), or scale · quant + minimum;
Q4_K and Q5_K subtract their minimum. Quants lie in words of four bytes. They are unpacked with
shifts and masks alone, so the same lines
serve numpy, where a word is an array of them (`cpu/packed.py`), and kernels, where it is a register
of them (`cpu/compiled/packing.py`).

    packed4      a word with the quants of four neighbouring columns, one in each byte
    low          bits of a quant below the fifth; in 8-bit types all of them
    high         bits of a quant from the fifth on, at the bottom of its byte
    sub-scale    of 16 or 32 columns: a small integer, by which the block's scale is multiplied
    sub-minimum  likewise, for the block's minimum

It does not turn numbers into quants (gguf-py does), nor say how a backend lays weights out.

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .tensor import FILE_DTYPES

Word: TypeAlias = Any  # 32 bits with & | ^ << >> *: an array of uint32, or a kernel's value
Words: TypeAlias = Mapping[str, Any]  # the words of a block, in sequences, by their fields

GROUP = 32  # columns that share a scale or a sub-scale; Q6_K has two sub-scales for them

_ONES = 0x01010101  # one bit in each byte of a word


@dataclass(frozen=True)
class Quants:
    """A block's quants, unpacked, and what scales them."""

    low: Sequence[Word]  # packed4, from the first columns on
    high: Sequence[Word] = ()  # packed4
    sub_scales: Sequence[Word] = ()  # signed bytes, four to a word
    sub_minimums: Sequence[Word] = ()


# --- unpacking a block ---------------------------------------------------------------------------


def _q4(words: Words) -> Quants:
    return Quants(_nibbles(words["low"]))


def _q5(words: Words) -> Quants:
    """One word has the fifth bits of all columns."""
    (fifth,) = words["high"]
    return Quants(
        _nibbles(words["low"]), [_bit_in_each_byte(fifth >> 4 * i & 15) for i in range(8)]
    )


def _q8(words: Words) -> Quants:
    return Quants([word ^ 128 * _ONES for word in words["low"]])  # −128 … 127 as 0 … 255


def _q4_k(words: Words) -> Quants:
    return Quants(_nibbles_by_run(words["low"], 8), (), *_six_bits(*words["sub_scales"]))


def _q5_k(words: Words) -> Quants:
    """Bit g of a byte is the fifth of a column of group g."""
    fifth = [word >> group & _ONES for group in range(8) for word in words["high"]]
    return Quants(_nibbles_by_run(words["low"], 8), fifth, *_six_bits(*words["sub_scales"]))


def _q6_k(words: Words) -> Quants:
    """In each half of a block, a byte has two bits of a column of each of four groups."""
    halves = words["high"][:8], words["high"][8:]
    two = [word >> 2 * group & 3 * _ONES for half in halves for group in range(4) for word in half]
    return Quants(_nibbles_by_run(words["low"], 16), two, words["sub_scales"])


def _nibbles(words: Sequence[Word]) -> list[Word]:
    """Return all low halves of bytes, then all high ones."""
    return [word & 15 * _ONES for word in words] + [word >> 4 & 15 * _ONES for word in words]


def _nibbles_by_run(words: Sequence[Word], run: int) -> list[Word]:
    """Return the low halves of each `run` words, then their high ones."""
    starts = range(0, len(words), run)
    return [nibbles for start in starts for nibbles in _nibbles(words[start : start + run])]


def _bit_in_each_byte(bits: Word) -> Word:
    """Move four bits to a byte each: of copies seven bits apart, each has one in its place."""
    return bits * (1 + (1 << 7) + (1 << 14) + (1 << 21)) & _ONES


def _six_bits(first: Word, second: Word, third: Word) -> tuple[list[Word], list[Word]]:
    """Unpack eight sub-scales and eight sub-minimums: four of each lie whole, four in two parts."""
    six, four, two = 63 * _ONES, 15 * _ONES, 48 * _ONES
    sub_scales = [first & six, third & four | first >> 2 & two]
    sub_minimums = [second & six, third >> 4 & four | second >> 2 & two]
    return sub_scales, sub_minimums


# --- packing quants again, for a backend's own layout --------------------------------------------


def stack_packed4(words: Sequence[Word], bits: int) -> list[Word]:
    """Put quants of so many bits above each other, as many words as a byte has room for."""
    room = 8 // bits
    return [
        reduce(
            or_, [word << i * bits if i else word for i, word in enumerate(words[at : at + room])]
        )
        for at in range(0, len(words), room)
    ]


def byte_at(words: Sequence[Word], index: int) -> Word:
    """Return the word that has byte `index` of a sequence of words in its lowest byte."""
    return words[index // 4] >> index % 4 * 8


# --- layouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockLayout:
    """The block of a quantised type."""

    columns: int  # 32, or 256 with a sub-scale for each group
    bits: int  # of a quant: 4, 5, 6 or 8
    offset: int  # subtracted from a quant
    scales_per_group: int  # of 32 columns; 1 also where the block has one scale alone
    dtype: np.dtype[Any]  # its fields: float16 scale and minimum, and words
    unpack: Callable[[Words], Quants]

    @property
    def has_minimum(self) -> bool:
        return "minimum" in (self.dtype.names or ())

    def fields(self) -> Iterator[tuple[str, int, int]]:
        """Yield each field's name, its offset in bytes and its number of words: 0 for a float16."""
        for name, (kind, offset, *_) in (self.dtype.fields or {}).items():
            yield name, offset, prod(kind.shape) if kind.shape else 0


_F16 = "<f2"


def _block(
    unpack: Callable[[Words], Quants],
    columns: int,
    bits: int,
    offset: int = 0,
    scales_per_group: int = 1,
    **fields: str | int,
) -> BlockLayout:
    """`fields`, in their order: a type of number, or a number of words."""
    kinds = {name: f"({it},)<u4" if isinstance(it, int) else it for name, it in fields.items()}
    dtype = np.dtype(list(kinds.items()))
    return BlockLayout(columns, bits, offset, scales_per_group, dtype, unpack)


BLOCKS = {
    "Q4_0": _block(_q4, 32, 4, offset=8, scale=_F16, low=4),
    "Q4_1": _block(_q4, 32, 4, scale=_F16, minimum=_F16, low=4),
    "Q5_0": _block(_q5, 32, 5, offset=16, scale=_F16, high=1, low=4),
    "Q5_1": _block(_q5, 32, 5, scale=_F16, minimum=_F16, high=1, low=4),
    "Q8_0": _block(_q8, 32, 8, offset=128, scale=_F16, low=8),
    "Q4_K": _block(_q4_k, 256, 4, scale=_F16, minimum=_F16, sub_scales=3, low=32),
    "Q5_K": _block(_q5_k, 256, 5, scale=_F16, minimum=_F16, sub_scales=3, high=8, low=32),
    "Q6_K": _block(_q6_k, 256, 6, 32, 2, low=32, high=16, sub_scales=4, scale=_F16),
}


class BlockSize(NamedTuple):
    """The unit of storage of a type."""

    columns: int
    size: int  # bytes


# Of every type that tensors are read in, by the names of files.
BLOCK_SIZES = {name: BlockSize(1, dtype.itemsize) for name, dtype in FILE_DTYPES.items()} | {
    name: BlockSize(block.columns, block.dtype.itemsize) for name, block in BLOCKS.items()
}
