"""The blocks that quantised files keep rows in: what lies where, and how codes come out of it.

A block is named field by field; its codes lie in words of four bytes. They are taken apart with
shifts and masks alone, so the same lines serve numpy, where a word is an array of them
(`packed.py`), and kernels, where it is a register of them (`compiled/packing.py`).

    quad   a word with the codes of four neighbouring columns, one in each byte
    low    what a code has below its fifth bit; in 8-bit formats all of it
    high   what it has from there on, moved to the bottom of its byte
    step   of a group of 32 columns: its scale or minimum as a small whole number

Formats of blocks: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_
from typing import Any, TypeAlias

import numpy as np

Word: TypeAlias = Any  # what has & | ^ << >> * on 32 bits: arrays of uint32, a kernel's values
Words: TypeAlias = Mapping[str, Any]  # those of a block, in sequences, by the field they lie in

_ONES = 0x01010101  # one bit in each byte of a word


@dataclass(frozen=True)
class Codes:
    """A block taken apart."""

    low: Sequence[Word]  # quads, from the first columns on
    high: Sequence[Word] = ()  # quads
    steps: Sequence[Word] = ()  # signed bytes, four to a word
    minimum_steps: Sequence[Word] = ()


# --- codes out of words --------------------------------------------------------------------------


def _q4(words: Words) -> Codes:
    return Codes(_nibbles(words["low"]))


def _q5(words: Words) -> Codes:
    """One word has the fifth bits of all columns."""
    (fifth,) = words["high"]
    return Codes(_nibbles(words["low"]), [_spread(fifth >> 4 * quad & 15) for quad in range(8)])


def _q8(words: Words) -> Codes:
    return Codes([word ^ 128 * _ONES for word in words["low"]])  # −128 … 127 as 0 … 255


def _q4_k(words: Words) -> Codes:
    return Codes(_nibbles_of_runs(words["low"], 8), (), *_six_bits(*words["steps"]))


def _q5_k(words: Words) -> Codes:
    """Bit g of a byte is the fifth of a column of group g."""
    fifth = [word >> group & _ONES for group in range(8) for word in words["high"]]
    return Codes(_nibbles_of_runs(words["low"], 8), fifth, *_six_bits(*words["steps"]))


def _q6_k(words: Words) -> Codes:
    """In each half of a block, a byte has two bits of a column of each of four groups."""
    halves = words["high"][:8], words["high"][8:]
    two = [word >> 2 * group & 3 * _ONES for half in halves for group in range(4) for word in half]
    return Codes(_nibbles_of_runs(words["low"], 16), two, words["steps"])


def _nibbles(words: Sequence[Word]) -> list[Word]:
    """All low halves of bytes, then all high ones."""
    return [word & 15 * _ONES for word in words] + [word >> 4 & 15 * _ONES for word in words]


def _nibbles_of_runs(words: Sequence[Word], run: int) -> list[Word]:
    """The same for each so many words."""
    starts = range(0, len(words), run)
    return [nibbles for start in starts for nibbles in _nibbles(words[start : start + run])]


def _spread(bits: Word) -> Word:
    """Four bits, one to each byte: of copies seven bits apart, each has one where it belongs."""
    return bits * (1 + (1 << 7) + (1 << 14) + (1 << 21)) & _ONES


def _six_bits(first: Word, second: Word, third: Word) -> tuple[list[Word], list[Word]]:
    """Eight scales and eight minima: four of each whole, four cut in two."""
    six, four, two = 63 * _ONES, 15 * _ONES, 48 * _ONES
    steps = [first & six, third & four | first >> 2 & two]
    minima = [second & six, third >> 4 & four | second >> 2 & two]
    return steps, minima


# --- words into panels ---------------------------------------------------------------------------


def stacked(quads: Sequence[Word], bits: int) -> list[Word]:
    """Codes of so many bits, as many above each other as a byte has room for."""
    room = 8 // bits
    return [
        reduce(
            or_, [quad << i * bits if i else quad for i, quad in enumerate(quads[at : at + room])]
        )
        for at in range(0, len(quads), room)
    ]


def step_at(steps: Sequence[Word], place: int) -> Word:
    """One of them, in the lowest byte of a word."""
    return steps[place // 4] >> place % 4 * 8


# --- blocks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    dtype: np.dtype[Any]  # its fields: float16 scale and minimum, and words
    parse: Callable[[Words], Codes]

    def fields(self) -> Iterator[tuple[str, int, int]]:
        """Name, place in bytes, and how many words it is: 0 for a float16."""
        for name, (kind, place, *_) in (self.dtype.fields or {}).items():
            yield name, place, prod(kind.shape) if kind.shape else 0


_HALF = "<f2"


def _block(parse: Callable[[Words], Codes], **fields: str | int) -> Block:
    """Of those fields: a type of number, or so many words."""
    kinds = {name: f"({it},)<u4" if isinstance(it, int) else it for name, it in fields.items()}
    return Block(np.dtype(list(kinds.items())), parse)


BLOCKS = {
    "Q4_0": _block(_q4, scale=_HALF, low=4),
    "Q4_1": _block(_q4, scale=_HALF, minimum=_HALF, low=4),
    "Q5_0": _block(_q5, scale=_HALF, high=1, low=4),
    "Q5_1": _block(_q5, scale=_HALF, minimum=_HALF, high=1, low=4),
    "Q8_0": _block(_q8, scale=_HALF, low=8),
    "Q4_K": _block(_q4_k, scale=_HALF, minimum=_HALF, steps=3, low=32),
    "Q5_K": _block(_q5_k, scale=_HALF, minimum=_HALF, steps=3, high=8, low=32),
    "Q6_K": _block(_q6_k, low=32, high=16, steps=4, scale=_HALF),
}
