"""Weights in the types that files store them in, laid out for compiled kernels.

    panel    16 rows of a matrix; numbers of the same column lie side by side, so that one vector
             holds a number of each row and a sum over columns needs no shuffles
    plain    F32, F16, BF16: a panel is [I, 16] numbers
    grouped  Q8_0, Q4_K, … : a panel is a sequence of records, one for each block of a row

A grouped weight is scale · (quant − offset), or scale · quant + minimum (Q4_K and Q5_K: − minimum).
Quants of four columns lie in four bytes (packed4), so that a dot product of bytes takes them at
once; bits above the fourth lie in a plane of their own. Nothing is rounded: every format holds
exactly what the file does.

This file says what the formats mean, in numpy. Blocks as files have them are
`files/quantized_blocks.py`'s; how kernels read panels, `compiled/unpacking.py`'s, and how they pack
them, `compiled/packing.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..files.quantized_blocks import (
    BLOCKS,
    GROUP,
    BlockLayout,
    Quants,
    Word,
    byte_at,
    stack_packed4,
)
from ..files.tensor import FILE_DTYPES, HostArray, StoredTensor

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

PANEL = 16  # rows
PACKED4 = 4  # columns in a word of quants: a dot product of bytes takes them at once
WORDS_IN_GROUP = GROUP // PACKED4

MAX_UNPACKED = 1 << 18  # elements made float32 at a time: a megabyte


@dataclass(frozen=True)
class Plain:
    """Floats as they are."""

    name: str
    dtype: np.dtype[Any]

    block_columns = 1

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
    """Quants with a scale, and perhaps a minimum, for each group of 32 columns.

    Types of 256 columns a block are nested: each group has small integers, by which the block's
    scale and minimum are multiplied.
    """

    name: str
    layout: BlockLayout  # in the file

    @property
    def block_columns(self) -> int:
        return self.layout.columns

    @property
    def block_bytes(self) -> int:
        return self.layout.dtype.itemsize

    @property
    def is_nested(self) -> bool:
        return self.layout.columns > GROUP

    @cached_property
    def group(self) -> np.dtype[Any]:
        """The part of a record that each group has, for 16 rows."""
        bits = self.layout.bits
        fields: list[tuple[str, str, tuple[int, ...]]] = []
        if self.is_nested:
            fields.append(("sub_scales", "i1", (self.layout.scales_per_group, PANEL)))
            if self.layout.has_minimum:
                fields.append(("sub_minimums", "i1", (PANEL,)))
        fields.append(("low", "u1", (8 if bits == 8 else 4, PANEL, PACKED4)))
        if bits in (5, 6):
            fields.append(("high", "u1", (bits - 4, PANEL, PACKED4)))
        return np.dtype([(name, kind, shape) for name, kind, shape in fields])

    @cached_property
    def record(self) -> np.dtype[Any]:
        """A block of 16 rows."""
        minimum = [("minimum", "<f2", (PANEL,))] if self.layout.has_minimum else []
        groups = [("groups", self.group, (self.layout.columns // GROUP,))]
        return np.dtype([("scale", "<f2", (PANEL,)), *minimum, *groups])

    def panel_bytes(self, columns: int) -> int:
        return self.record.itemsize * (columns // self.layout.columns)

    def pack(self, rows: HostArray) -> Bytes:
        """[16 n, bytes of a row in the file] → [n, bytes of a panel]."""
        layout, count, blocks = self.layout, len(rows) // PANEL, rows.shape[1] // self.block_bytes
        stored = rows.view(layout.dtype).reshape(count, PANEL, blocks)
        fields: dict[str, HostArray] = {}  # [n, blocks, 16], or words [W, n, blocks, 16]
        for name, _, _ in layout.fields():
            axes = (0, 2, 1) if stored[name].ndim == 3 else (3, 0, 2, 1)
            fields[name] = np.ascontiguousarray(stored[name].transpose(axes))
        records = np.empty((count, blocks), self.record)
        records["scale"] = fields["scale"]
        if layout.has_minimum:
            records["minimum"] = fields["minimum"]
        quants = layout.unpack(fields)
        for index in range(layout.columns // GROUP):
            group = records["groups"][:, :, index]  # [n, blocks]
            for name, planes in self.planes(quants, index).items():
                for i, plane in enumerate(planes):
                    group[name][:, :, i] = plane[..., None].view(np.uint8)
            for name, words in self.sub_scales(quants, index).items():
                group[name] = np.stack(words, 2).astype(np.int8).reshape(group[name].shape)
        return _as_bytes(records)

    def planes(self, quants: Quants, group: int) -> dict[str, list[Word]]:
        """Return a group's quants as a panel has them: words of each row, by the panel's fields."""
        words, bits = slice(group * WORDS_IN_GROUP, (group + 1) * WORDS_IN_GROUP), self.layout.bits
        low = stack_packed4(quants.low[words], 8 if bits == 8 else 4)
        if bits in (4, 8):
            return {"low": low}
        return {"low": low, "high": stack_packed4(quants.high[words], bits - 4)}

    def sub_scales(self, quants: Quants, group: int) -> dict[str, list[Word]]:
        """Return a group's sub-scales in the lowest bytes of words, by the panel's fields."""
        if not self.is_nested:
            return {}
        count = self.layout.scales_per_group
        scales = [byte_at(quants.sub_scales, group * count + i) for i in range(count)]
        if not self.layout.has_minimum:
            return {"sub_scales": scales}
        return {"sub_scales": scales, "sub_minimums": [byte_at(quants.sub_minimums, group)]}

    def unpack(self, panels: Bytes) -> Floats:
        """[n, bytes of a panel] → [16 n, I]: the numbers that the file stands for."""
        layout, records = self.layout, panels.view(self.record)  # [n, blocks]
        groups = records["groups"]  # [n, blocks, groups]
        numbers = self._quants(groups).astype(np.float32) - layout.offset
        # [n, blocks, groups, scales in a group, columns, 16]
        numbers = numbers.reshape(*groups.shape, layout.scales_per_group, -1, PANEL)
        scale: Floats = records["scale"].astype(np.float32)[:, :, None, None]
        numbers *= (scale * groups["sub_scales"] if self.is_nested else scale)[..., None, :]
        if layout.has_minimum:
            minimum: Floats = records["minimum"].astype(np.float32)[:, :, None]
            if self.is_nested:  # these subtract theirs
                minimum = -minimum * groups["sub_minimums"]
            numbers += minimum[..., None, None, :]
        rows = numbers.reshape(len(panels), -1, PANEL).swapaxes(1, 2)
        return rows.reshape(len(panels) * PANEL, -1)

    def _quants(self, groups: HostArray) -> HostArray:
        """[n, blocks, groups] → [n, blocks, groups, 32, 16]."""
        bits, low = self.layout.bits, groups["low"]  # [n, blocks, groups, words, 16, 4]
        if bits < 8:
            low = np.stack([low & 15, low >> 4], 4).reshape(*groups.shape, 8, PANEL, PACKED4)
        if bits in (5, 6):
            width, high = bits - 4, groups["high"]  # [n, blocks, groups, planes, 16, 4]
            shifts = np.arange(8 // width, dtype=np.uint8)[:, None, None] * np.uint8(width)
            above = (high[..., None, :, :] >> shifts) & np.uint8((1 << width) - 1)
            low = low | above.reshape(low.shape) << 4
        return low.swapaxes(-1, -2).reshape(*groups.shape, GROUP, PANEL)


Format: TypeAlias = Plain | Grouped


def _as_bytes(array: HostArray) -> Bytes:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


# By the names of files.
FORMATS: dict[str, Format] = {
    **{name: Plain(name, dtype) for name, dtype in FILE_DTYPES.items()},
    **{name: Grouped(name, layout) for name, layout in BLOCKS.items()},
}


def format_of(dtype: str) -> Format:
    """Return the format for tensors of a file's type; BF16 for types that have none."""
    return FORMATS.get(dtype, FORMATS["BF16"])


def tiles_of(tensor: StoredTensor, format_: Format) -> Iterator[HostArray]:
    """Return a stored matrix's rows, a few at a time, as `format_.pack` takes them.

    Rows of another type are quantised by gguf.
    """
    if isinstance(format_, Plain):
        return tensor.tiles()
    if tensor.dtype == format_.name and tensor.blocks is not None:
        return tensor.blocks()
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    type_ = GGMLQuantizationType[format_.name]
    return (quantize(tile.astype(np.float32), type_) for tile in tensor.tiles())


# --- matrices ------------------------------------------------------------------------------------


def pack_in_numpy(format_: Format, rows: HostArray, panels: Bytes) -> None:
    panels[:] = format_.pack(rows)


# Packs rows, sixteen or a multiple of it, as a format takes them, into their panels.
Pack: TypeAlias = Callable[[Format, HostArray, Bytes], None]


@dataclass(frozen=True)
class Panels:
    """Rows of one format."""

    format: Format
    rows: int  # the last panel may have more; those are zeros
    data: Bytes  # [panels, bytes of a panel]

    def unpack(self, first: int, end: int) -> Floats:
        """Return the rows of those panels, [at most 16 (end − first), I]."""
        return self.format.unpack(self.data[first:end])[: self.rows - first * PANEL]

    def fill(self, tiles: Iterable[HostArray], pack: Pack = pack_in_numpy) -> None:
        """Pack consecutive rows, as the format takes them, a few at a time."""
        first = 0
        for rows in _in_panels(tiles):
            end = first + len(rows) // PANEL
            pack(self.format, rows, self.data[first:end])
            first = end

    def rows_at(self, rows: HostArray) -> Floats:
        """[T] → [T, I]."""
        panels, lanes = np.divmod(rows, PANEL)
        numbers = self.format.unpack(self.data[panels]).reshape(len(rows), PANEL, -1)
        return numbers[np.arange(len(rows)), lanes]


def _in_panels(tiles: Iterable[HostArray]) -> Iterator[HostArray]:
    """Yield the same rows, sixteen or a multiple of it at a time; zeros complete the last sixteen.

    Only rows that two tiles share a panel of are copied.
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
        count = len(rows) // PANEL * PANEL
        if count:
            yield rows[:count]
        waiting = rows[count:] if count < len(rows) else None
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
        """Yield each part with the row of the matrix that is its first."""
        first = 0
        for part in self.parts:
            yield first, part
            first += part.rows

    def pieces(self) -> Iterator[Floats]:
        """Yield all rows as float32, a few at a time."""
        step = max(1, MAX_UNPACKED // (PANEL * self.columns))
        for part in self.parts:
            for first in range(0, len(part.data), step):
                yield part.unpack(first, first + step)

    def product(self, x: Floats) -> Floats:
        """x · weightᵀ: [T, I] → [T, O]. It specifies every compiled product."""
        return np.concatenate([x @ piece.T for piece in self.pieces()], axis=1)

    def rows_at(self, rows: HostArray) -> Floats:
        """[T] → [T, I]."""
        out = np.empty((len(rows), self.columns), np.float32)
        for first, part in self.placed():
            is_here = (rows >= first) & (rows < first + part.rows)
            if is_here.any():
                out[is_here] = part.rows_at(rows[is_here] - first)
        return out
