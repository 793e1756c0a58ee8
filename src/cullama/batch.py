"""One forward pass, described in integers: which tokens, where they stand, where they are kept.

A batch is ragged: each sequence brings as many tokens as it has to catch up with, one or a
thousand. It is built on the host in one buffer, so that it can be sent up in one copy.
It knows no sequence, no scheduler and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from .tensor import HostArray

Array = TypeVar("Array")


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """T tokens of S sequences, laid end to end; all arrays int32."""

    tokens: Array  # [T]
    positions: Array  # [T]     of each token in its own sequence
    slots: Array  # [T]     where its key and value go in the cache; −1: nowhere
    query_starts: Array  # [S + 1] first token of each sequence in this batch
    context_lengths: Array  # [S]     tokens the sequence has in the cache after this pass
    block_tables: Array  # [S, B]  cache blocks of each sequence, padded with 0
    logit_rows: Array  # [R]     the tokens whose logits are wanted


class Piece(NamedTuple):
    """What one sequence contributes: `tokens`, the first of them at position `start`."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]  # at least enough for start + len(tokens)
    logits: int  # how many of its last tokens want logits


def build_batch(pieces: Sequence[Piece], block_size: int) -> Batch[HostArray]:
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    lengths: list[int] = []
    rows: list[int] = []
    for piece in pieces:
        end = piece.start + len(piece.tokens)
        tokens += piece.tokens
        positions += range(piece.start, end)
        slots += [
            piece.blocks[p // block_size] * block_size + p % block_size
            for p in range(piece.start, end)
        ]
        rows += range(len(tokens) - piece.logits, len(tokens))
        starts.append(len(tokens))
        lengths.append(end)
    width = max(-(-length // block_size) for length in lengths)
    tables = [_padded(piece.blocks, width) for piece in pieces]
    flat = [block for table in tables for block in table]
    return _unpacked([tokens, positions, slots, starts, lengths, flat, rows], width)


def _padded(blocks: Sequence[int], width: int) -> list[int]:
    return list(blocks[:width]) + [0] * (width - len(blocks))


def _unpacked(fields: list[list[int]], width: int) -> Batch[HostArray]:
    """The fields as views of one int32 buffer."""
    buffer = np.array([number for field in fields for number in field], np.int32)
    views, start = [], 0
    for field in fields:
        views.append(buffer[start : start + len(field)])
        start += len(field)
    tokens, positions, slots, starts, lengths, tables, rows = views
    return Batch(tokens, positions, slots, starts, lengths, tables.reshape(-1, width), rows)
