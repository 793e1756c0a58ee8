"""Weights in the types that files store them in, packed for compiled kernels.

    panel    16 rows of a matrix; what the rows have in the same columns lies side by side, so that
             one vector holds a number of each row and a sum over columns needs no rearranging
    plain    F32, F16, BF16: a panel is [I, 16] numbers
    grouped  Q8_0, Q4_K, … : a panel is a row of records, one for each block of the file's format

A grouped weight is scale · (code − offset), or scale · code + minimum. Codes of four columns lie
in four bytes, so that a dot product of bytes takes them at once; what is above four bits lies in a
plane of its own. Nothing is rounded: every format holds exactly what the file does.

Here is what the formats mean, in numpy. How kernels read them is `compiled/unpacking.py`'s.

Formats of blocks: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..tensor import HostArray, StoredTensor

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

PANEL = 16  # rows
GROUP = 32  # columns whose codes and scales lie together
QUAD = 4  # columns that a dot product of bytes takes at once

UNPACKED = 1 << 18  # elements made float32 at a time: a megabyte


@dataclass(frozen=True)
class Plain:
    """Numbers as they are."""

    name: str
    dtype: np.dtype[Any]

    block = 1

    def panel_bytes(self, columns: int) -> int:
        return PANEL * columns * self.dtype.itemsize

    def pack(self, rows: HostArray) -> Bytes:
        """[16 n, I] numbers → [n, bytes of a panel]."""
        panels = rows.astype(self.dtype, copy=False).reshape(-1, PANEL, rows.shape[1])
        return _as_bytes(panels.swapaxes(1, 2))

    def unpack(self, panels: Bytes) -> Floats:
        """[n, bytes of a panel] → [16 n, I]."""
        numbers = panels.view(self.dtype).reshape(len(panels), -1, PANEL)
        return numbers.swapaxes(1, 2).reshape(len(panels) * PANEL, -1).astype(np.float32)


@dataclass(frozen=True)
class Grouped:
    """Codes with a scale, and perhaps a minimum, for each group of 32 columns.

    In formats of 256 columns a block, what a group has is a small whole number, and the block
    has what it counts in.
    """

    name: str
    block: int  # columns in a block of the file: 32, or 256 with scales of their own for each group
    block_bytes: int
    bits: int  # of a code: 4, 5, 6 or 8
    offset: int  # taken from a code
    has_minimum: bool
    scales: int  # in a group: 1, or 2 for 16 columns each
    parse: Callable[[Bytes], Parsed]

    @property
    def is_nested(self) -> bool:
        return self.block > GROUP

    @property
    def group(self) -> np.dtype[Any]:
        """What each group has, for 16 rows."""
        fields: list[tuple[str, str, tuple[int, ...]]] = []
        if self.is_nested:
            fields.append(("step", "i1", (self.scales, PANEL)))
            if self.has_minimum:
                fields.append(("minimum_step", "i1", (PANEL,)))
        width = 8 if self.bits == 8 else 4
        fields.append(("low", "u1", (width, PANEL, QUAD)))
        if self.bits in (5, 6):
            fields.append(("high", "u1", (self.bits - 4, PANEL, QUAD)))
        return np.dtype([(name, kind, shape) for name, kind, shape in fields])

    @property
    def record(self) -> np.dtype[Any]:
        """What each block has, for 16 rows."""
        minimum = [("minimum", "<f2", (PANEL,))] if self.has_minimum else []
        groups = [("groups", self.group, (self.block // GROUP,))]
        return np.dtype([("scale", "<f2", (PANEL,)), *minimum, *groups])

    def panel_bytes(self, columns: int) -> int:
        return self.record.itemsize * (columns // self.block)

    def pack(self, rows: HostArray) -> Bytes:
        """[16 n, bytes of a row in the file] → [n, bytes of a panel]."""
        count, blocks = len(rows) // PANEL, rows.shape[1] // self.block_bytes
        parsed = self.parse(rows.reshape(-1, self.block_bytes))
        records = np.empty((count, blocks), self.record)

        def by_panel(values: HostArray) -> HostArray:
            """[16 n blocks, …] → [n, blocks, …, 16]."""
            panels = values.reshape(count, PANEL, blocks, *values.shape[1:])
            return np.moveaxis(panels, 1, -1)

        records["scale"] = by_panel(parsed.scale)
        if self.has_minimum:
            records["minimum"] = by_panel(parsed.minimum)
        groups = records["groups"]
        if self.is_nested:
            groups["step"] = by_panel(parsed.steps)
            if self.has_minimum:
                groups["minimum_step"] = by_panel(parsed.minimum_steps)
        codes = by_panel(parsed.codes.reshape(len(parsed.codes), -1, GROUP // QUAD, QUAD))
        codes = codes.swapaxes(-1, -2)  # [n, blocks, groups, quads, 16, 4]
        if self.bits == 8:
            groups["low"] = codes
        else:
            low = codes & 15
            groups["low"] = low[:, :, :, 0::2] | low[:, :, :, 1::2] << 4
        if self.bits in (5, 6):
            groups["high"] = _high_plane(codes >> 4, self.bits - 4)
        return _as_bytes(records)

    def unpack(self, panels: Bytes) -> Floats:
        """[n, bytes of a panel] → [16 n, I]: the numbers the file stands for."""
        records = panels.view(self.record)  # [n, blocks]
        groups = records["groups"]  # [n, blocks, groups]
        codes = self._codes(groups).astype(np.float32) - self.offset
        half = codes.reshape(*groups.shape, self.scales, -1, PANEL)  # [… halves, columns, 16]
        half *= self._scales(records, groups)[..., None, :]
        if self.has_minimum:
            half += self._minima(records, groups)[..., None, None, :]
        return half.reshape(len(panels), -1, PANEL).swapaxes(1, 2).reshape(len(panels) * PANEL, -1)

    def _codes(self, groups: HostArray) -> HostArray:
        """[n, blocks, groups] → [n, blocks, groups, 32, 16]."""
        low = groups["low"]  # [n, blocks, groups, quads or pairs, 16, 4]
        if self.bits < 8:
            low = np.stack([low & 15, low >> 4], 4).reshape(*groups.shape, 8, PANEL, QUAD)
        if self.bits in (5, 6):
            low = low | _from_high_plane(groups["high"], self.bits - 4) << 4
        return low.swapaxes(-1, -2).reshape(*groups.shape, GROUP, PANEL)

    def _scales(self, records: HostArray, groups: HostArray) -> Floats:
        """[n, blocks, groups, scales, 16]."""
        scale: Floats = records["scale"].astype(np.float32)[:, :, None, None]
        return scale * groups["step"] if self.is_nested else scale

    def _minima(self, records: HostArray, groups: HostArray) -> Floats:
        """[n, blocks, groups, 16]; nested formats take theirs away."""
        minimum: Floats = records["minimum"].astype(np.float32)[:, :, None]
        return -minimum * groups["minimum_step"] if self.is_nested else minimum


Format: TypeAlias = Plain | Grouped


def _high_plane(high: Bytes, bits: int) -> Bytes:
    """[…, 8 quads, 16, 4] codes of one or two bits → […, planes, 16, 4], quads above each other."""
    shifts = np.arange(8 // bits, dtype=np.uint8)[:, None, None] * np.uint8(bits)
    stacked = high.reshape(*high.shape[:-3], bits, 8 // bits, *high.shape[-2:])
    whole: Bytes = np.bitwise_or.reduce(stacked << shifts, axis=-3)
    return whole


def _from_high_plane(plane: Bytes, bits: int) -> Bytes:
    shifts = np.arange(8 // bits, dtype=np.uint8)[:, None, None] * np.uint8(bits)
    quads = (plane[..., None, :, :] >> shifts) & np.uint8((1 << bits) - 1)
    whole: Bytes = quads.reshape(*plane.shape[:-3], 8, *plane.shape[-2:])
    return whole


def _as_bytes(array: HostArray) -> Bytes:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


# --- the blocks of files -------------------------------------------------------------------------


def _nothing() -> HostArray:
    return np.empty(0)


@dataclass(frozen=True)
class Parsed:
    """B blocks taken apart."""

    scale: HostArray  # float16 [B]
    codes: Bytes  # [B, columns], from 0 on
    minimum: HostArray = field(default_factory=_nothing)  # float16 [B]
    steps: HostArray = field(default_factory=_nothing)  # int8 [B, groups, scales]
    minimum_steps: HostArray = field(default_factory=_nothing)  # int8 [B, groups]


def _halves(blocks: Bytes, start: int) -> HostArray:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")[:, 0]


def _nibbles(packed: Bytes) -> Bytes:
    """[B, n] → [B, 2 n]: all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _nibbles_by_32(packed: Bytes) -> Bytes:
    """The same, for each 32 bytes."""
    return _nibbles(packed.reshape(-1, 32)).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """[B, 4] → [B, 32]: 16 where the code has its fifth bit."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Bytes) -> Parsed:
    return Parsed(_halves(blocks, 0), blocks[:, 2:] ^ 128)  # −128 … 127 as 0 … 255


def _q4_0(blocks: Bytes) -> Parsed:
    return Parsed(_halves(blocks, 0), _nibbles(blocks[:, 2:]))


def _q4_1(blocks: Bytes) -> Parsed:
    return Parsed(_halves(blocks, 0), _nibbles(blocks[:, 4:]), _halves(blocks, 2))


def _q5_0(blocks: Bytes) -> Parsed:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return Parsed(_halves(blocks, 0), codes)


def _q5_1(blocks: Bytes) -> Parsed:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return Parsed(_halves(blocks, 0), codes, _halves(blocks, 2))


def _q4_k(blocks: Bytes) -> Parsed:
    return _k_block(blocks, _nibbles_by_32(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> Parsed:
    groups = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, None, 16:48] >> groups & 1).reshape(len(blocks), -1)  # bit g of byte i
    return _k_block(blocks, _nibbles_by_32(blocks[:, 48:]) | fifth << 4)


def _k_block(blocks: Bytes, codes: Bytes) -> Parsed:
    """Eight scales and eight minima of six bits each, in twelve bytes."""
    first, second, third = (blocks[:, start : start + 4] for start in (4, 8, 12))
    steps = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return Parsed(
        _halves(blocks, 0),
        codes,
        _halves(blocks, 2),
        steps.view(np.int8)[:, :, None],
        minima.view(np.int8),
    )


def _q6_k(blocks: Bytes) -> Parsed:
    low = np.concatenate([_nibbles(blocks[:, i : i + 64]) for i in (0, 64)], axis=1)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.concatenate(
        [(blocks[:, None, i : i + 32] >> shifts & 3).reshape(len(blocks), -1) for i in (128, 160)],
        axis=1,
    )
    steps = blocks[:, 192:208].view(np.int8).reshape(-1, 8, 2)
    return Parsed(_halves(blocks, 208), low | high << 4, steps=steps)


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Plain("F32", np.dtype(np.float32)),
        Plain("F16", np.dtype(np.float16)),
        Plain("BF16", np.dtype(ml_dtypes.bfloat16)),
        Grouped("Q4_0", 32, 18, 4, 8, False, 1, _q4_0),
        Grouped("Q4_1", 32, 20, 4, 0, True, 1, _q4_1),
        Grouped("Q5_0", 32, 22, 5, 16, False, 1, _q5_0),
        Grouped("Q5_1", 32, 24, 5, 0, True, 1, _q5_1),
        Grouped("Q8_0", 32, 34, 8, 128, False, 1, _q8_0),
        Grouped("Q4_K", 256, 144, 4, 0, True, 1, _q4_k),
        Grouped("Q5_K", 256, 176, 5, 0, True, 1, _q5_k),
        Grouped("Q6_K", 256, 210, 6, 32, False, 2, _q6_k),
    )
}


def format_of(dtype: str) -> Format:
    """The format for tensors of a file's type; BF16 for those it has no name for."""
    return FORMATS.get(dtype, FORMATS["BF16"])


def tiles_of(tensor: StoredTensor, format_: Format) -> Iterator[HostArray]:
    """A stored matrix, a few rows at a time, as `format_.pack` takes them."""
    if isinstance(format_, Plain):
        return tensor.tiles()
    if tensor.dtype == format_.name and tensor.blocks is not None:
        return tensor.blocks()
    return _quantised(tensor, format_)


def _quantised(tensor: StoredTensor, format_: Grouped) -> Iterator[HostArray]:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    for tile in tensor.tiles():
        yield quantize(tile.astype(np.float32), GGMLQuantizationType[format_.name])


# --- matrices ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panels:
    """Rows of one format."""

    format: Format
    rows: int  # of the last panel, some may be no rows of the matrix
    data: Bytes  # [panels, bytes of a panel]

    def unpack(self, first: int, end: int) -> Floats:
        """Rows of those panels, [at most 16 (end − first), I]."""
        return self.format.unpack(self.data[first:end])[: self.rows - first * PANEL]

    def fill(self, tiles: Iterable[HostArray]) -> None:
        """Consecutive rows, as `pack` takes them, a few at a time."""
        panel = 0
        waiting: list[HostArray] = []
        for tile in tiles:
            rows = np.concatenate([*waiting, tile])
            whole = len(rows) // PANEL
            self._fill(panel, rows[: whole * PANEL])
            panel, waiting = panel + whole, [rows[whole * PANEL :]]
        for rest in waiting:
            missing = np.zeros((-len(rest) % PANEL, rest.shape[1]), rest.dtype)
            self._fill(panel, np.concatenate([rest, missing]))

    def _fill(self, panel: int, rows: HostArray) -> None:
        if len(rows):
            self.data[panel : panel + len(rows) // PANEL] = self.format.pack(rows)

    def rows_at(self, rows: HostArray) -> Floats:
        places, lanes = np.divmod(rows, PANEL)
        whole = self.format.unpack(self.data[places])
        return whole.reshape(len(rows), PANEL, -1)[np.arange(len(rows)), lanes]


@dataclass(frozen=True)
class PackedMatrix:
    """An [O, I] weight: rows of one format, or of several, one below the other."""

    parts: tuple[Panels, ...]
    columns: int

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def nbytes(self) -> int:
        return sum(part.data.nbytes for part in self.parts)

    def pieces(self) -> Iterator[Floats]:
        """All rows as float32, a few at a time."""
        step = max(1, UNPACKED // (PANEL * self.columns))
        for part in self.parts:
            for first in range(0, len(part.data), step):
                yield part.unpack(first, first + step)

    def product(self, x: Floats) -> Floats:
        """x · weightᵀ: [T, I] → [T, O]. The meaning of every compiled product."""
        return np.concatenate([x @ piece.T for piece in self.pieces()], axis=1)

    def rows_at(self, rows: HostArray) -> Floats:
        """[T] → [T, I]."""
        out = np.empty((len(rows), self.columns), np.float32)
        start = 0
        for part in self.parts:
            mine = (rows >= start) & (rows < start + part.rows)
            out[mine] = part.rows_at(rows[mine] - start)
            start += part.rows
        return out
