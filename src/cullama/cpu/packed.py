"""Weights in the types that files store them in, packed for compiled kernels.

    panel    16 rows of a matrix; what the rows have in the same columns lies side by side, so that
             one vector holds a number of each row and a sum over columns needs no rearranging
    plain    F32, F16, BF16: a panel is [I, 16] numbers
    grouped  Q8_0, Q4_K, … : a panel is a row of records, one for each block of the file's format

A grouped weight is scale · (code − offset), or scale · code + minimum. Codes of four columns lie
in four bytes, so that a dot product of bytes takes them at once; what is above four bits lies in a
plane of its own. Nothing is rounded: every format holds exactly what the file does.

Here is what the formats mean, in numpy. What blocks look like in files is `file_blocks.py`'s; how
kernels read panels, `compiled/unpacking.py`'s, and how they pack them, `compiled/packing.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..files.quantized_blocks import BLOCKS, Block, Codes, Word, stacked, step_at
from ..files.tensor import HostArray, StoredTensor

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

PANEL = 16  # rows
GROUP = 32  # columns whose codes and scales lie together
QUAD = 4  # columns that a dot product of bytes takes at once
QUADS = GROUP // QUAD

UNPACKED = 1 << 18  # elements made float32 at a time: a megabyte


@dataclass(frozen=True)
class Plain:
    """Numbers as they are."""

    name: str
    dtype: np.dtype[Any]

    block = 1

    @property
    def block_bytes(self) -> int:
        return self.dtype.itemsize

    def panel_bytes(self, columns: int) -> int:
        return PANEL * columns * self.dtype.itemsize

    def pack(self, rows: HostArray) -> Bytes:
        """[16 n, I] numbers → [n, bytes of a panel]."""
        panels = rows.astype(self.dtype, copy=False).reshape(-1, PANEL, rows.shape[1])
        bits = panels.view(f"u{self.dtype.itemsize}")  # numpy moves its own types faster
        return _as_bytes(bits.swapaxes(1, 2))

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
    bits: int  # of a code: 4, 5, 6 or 8
    offset: int  # taken from a code
    has_minimum: bool
    scales: int  # in a group: 1, or 2 for 16 columns each

    @property
    def stored(self) -> Block:
        """A block of the file."""
        return BLOCKS[self.name]

    @property
    def block_bytes(self) -> int:
        return self.stored.dtype.itemsize

    @property
    def is_nested(self) -> bool:
        return self.block > GROUP

    @cached_property
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

    @cached_property
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
        stored = rows.view(self.stored.dtype).reshape(count, PANEL, blocks)
        fields = {name: _by_panel(stored[name]) for name, _, _ in self.stored.fields()}
        records = np.empty((count, blocks), self.record)
        records["scale"] = fields["scale"]
        if self.has_minimum:
            records["minimum"] = fields["minimum"]
        codes = self.stored.parse(fields)
        for place in range(self.block // GROUP):
            self._pack_group(records["groups"][:, :, place], codes, place)
        return _as_bytes(records)

    def _pack_group(self, group: HostArray, codes: Codes, place: int) -> None:
        """`group`: [n, blocks], to be filled; `place`: which of its block it is."""
        for name, planes in self.planes(codes, place).items():
            for i, plane in enumerate(planes):
                group[name][:, :, i] = plane[..., None].view(np.uint8)
        for name, steps in self.steps(codes, place).items():
            group[name] = np.stack(steps, 2).astype(np.int8).reshape(group[name].shape)

    def planes(self, codes: Codes, group: int) -> dict[str, list[Word]]:
        """A group's codes as a panel has them: words of each row, by the field they lie in."""
        quads = slice(group * QUADS, (group + 1) * QUADS)
        low = stacked(codes.low[quads], 8 if self.bits == 8 else 4)
        if self.bits in (4, 8):
            return {"low": low}
        return {"low": low, "high": stacked(codes.high[quads], self.bits - 4)}

    def steps(self, codes: Codes, group: int) -> dict[str, list[Word]]:
        """A group's steps by their fields of a panel, in the lowest bytes of words."""
        steps = {}
        if self.is_nested:
            first = group * self.scales
            steps["step"] = [step_at(codes.steps, first + i) for i in range(self.scales)]
            if self.has_minimum:
                steps["minimum_step"] = [step_at(codes.minimum_steps, group)]
        return steps

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


def _from_high_plane(plane: Bytes, bits: int) -> Bytes:
    shifts = np.arange(8 // bits, dtype=np.uint8)[:, None, None] * np.uint8(bits)
    quads = (plane[..., None, :, :] >> shifts) & np.uint8((1 << bits) - 1)
    whole: Bytes = quads.reshape(*plane.shape[:-3], 8, *plane.shape[-2:])
    return whole


def _by_panel(field: HostArray) -> HostArray:
    """[n, 16, blocks] → [n, blocks, 16]; words, [n, 16, blocks, W] → [W, n, blocks, 16]."""
    return np.ascontiguousarray(field.transpose((0, 2, 1) if field.ndim == 3 else (3, 0, 2, 1)))


def _as_bytes(array: HostArray) -> Bytes:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Plain("F32", np.dtype(np.float32)),
        Plain("F16", np.dtype(np.float16)),
        Plain("BF16", np.dtype(ml_dtypes.bfloat16)),
        Grouped("Q4_0", 32, 4, 8, False, 1),
        Grouped("Q4_1", 32, 4, 0, True, 1),
        Grouped("Q5_0", 32, 5, 16, False, 1),
        Grouped("Q5_1", 32, 5, 0, True, 1),
        Grouped("Q8_0", 32, 8, 128, False, 1),
        Grouped("Q4_K", 256, 4, 0, True, 1),
        Grouped("Q5_K", 256, 5, 0, True, 1),
        Grouped("Q6_K", 256, 6, 32, False, 2),
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


def pack_in_numpy(format_: Format, rows: HostArray, panels: Bytes) -> None:
    panels[:] = format_.pack(rows)


# Rows as a format packs them, sixteen or a multiple of it, into their panels.
Pack: TypeAlias = Callable[[Format, HostArray, Bytes], None]


@dataclass(frozen=True)
class Panels:
    """Rows of one format."""

    format: Format
    rows: int  # of the last panel, some may be no rows of the matrix
    data: Bytes  # [panels, bytes of a panel]

    def unpack(self, first: int, end: int) -> Floats:
        """Rows of those panels, [at most 16 (end − first), I]."""
        return self.format.unpack(self.data[first:end])[: self.rows - first * PANEL]

    def fill(self, tiles: Iterable[HostArray], pack: Pack = pack_in_numpy) -> None:
        """Consecutive rows, as the format packs them, a few at a time."""
        first = 0
        for rows in _in_panels(tiles):
            end = first + len(rows) // PANEL
            pack(self.format, rows, self.data[first:end])
            first = end

    def rows_at(self, rows: HostArray) -> Floats:
        places, lanes = np.divmod(rows, PANEL)
        whole = self.format.unpack(self.data[places])
        return whole.reshape(len(rows), PANEL, -1)[np.arange(len(rows)), lanes]


def _in_panels(tiles: Iterable[HostArray]) -> Iterator[HostArray]:
    """The same rows, sixteen or a multiple of it at a time; the last are filled up with zeros.

    Only what lies on both sides of a seam is copied.
    """
    waiting: HostArray | None = None
    for tile in tiles:
        rows = tile
        if waiting is not None:
            missing = PANEL - len(waiting)
            waiting, rows = np.concatenate([waiting, tile[:missing]]), tile[missing:]
            if len(waiting) < PANEL:
                continue
            yield waiting
        whole = len(rows) // PANEL * PANEL
        if whole:
            yield rows[:whole]
        waiting = rows[whole:] if whole < len(rows) else None
    if waiting is not None:
        missing_rows = np.zeros((PANEL - len(waiting), waiting.shape[1]), waiting.dtype)
        yield np.concatenate([waiting, missing_rows])


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

    def placed(self) -> Iterator[tuple[int, Panels]]:
        """The parts, each behind the row that is its first."""
        first = 0
        for part in self.parts:
            yield first, part
            first += part.rows

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
        for first, part in self.placed():
            mine = (rows >= first) & (rows < first + part.rows)
            if mine.any():
                out[mine] = part.rows_at(rows[mine] - first)
        return out
