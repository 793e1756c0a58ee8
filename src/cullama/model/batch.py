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

from ..files.tensor import HostArray

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


class Chunk(NamedTuple):
    """What one sequence contributes: `tokens`, the first of them at position `start`."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]  # at least enough for start + len(tokens)
    logits: int  # how many of its last tokens want logits


def build_batch(chunks: Sequence[Chunk], block_size: int) -> Batch[HostArray]:
    """Chunk by chunk: the meaning of `build_large_batch`, and the faster for a few."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    lengths: list[int] = []
    rows: list[int] = []
    for chunk in chunks:
        end = chunk.start + len(chunk.tokens)
        tokens += chunk.tokens
        positions += range(chunk.start, end)
        slots += [
            chunk.blocks[p // block_size] * block_size + p % block_size
            for p in range(chunk.start, end)
        ]
        rows += range(len(tokens) - chunk.logits, len(tokens))
        starts.append(len(tokens))
        lengths.append(end)
    width = max(-(-length // block_size) for length in lengths)
    tables = [_padded(chunk.blocks, width) for chunk in chunks]
    flat = [block for table in tables for block in table]
    fields = [tokens, positions, slots, starts, lengths, flat, rows]
    buffer = np.array([number for field in fields for number in field], np.int32)
    return _views(buffer, [len(field) for field in fields], width)


def build_large_batch(
    tokens: Sequence[int],
    starts: Sequence[int],
    counts: Sequence[int],
    wanted: Sequence[int],
    tables: Sequence[bytes],
    block_size: int,
) -> Batch[HostArray]:
    """The same from columns, with a few calls into numpy however many sequences there are.

    Of each sequence: its first position, how many of the tokens are its, how many of those want
    logits, and its blocks as the bytes of an int32 array.
    """
    first, count, rows, ids = (_column(each) for each in (starts, counts, wanted, tokens))
    lengths = first + count
    query_starts, whose, places = _spread(count)
    positions = first[whose] + places
    width = int(-(-lengths.max() // block_size))
    table = _table(tables, width)
    slots = table[whose, positions // block_size] * block_size + positions % block_size
    _, whose, places = _spread(rows)
    logit_rows = (query_starts[1:] - rows)[whose] + places
    fields = [ids, positions, slots, query_starts, lengths, table.reshape(-1), logit_rows]
    return _views(np.concatenate(fields), [len(field) for field in fields], width)


def _spread(counts: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    """[S] → where each one's begin and the last one's end, whose each is, its place among them."""
    each = np.arange(len(counts), dtype=np.int32)
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    if starts[-1] == len(counts) and counts.all():  # one each
        return starts, each, np.zeros_like(each)
    whose = np.repeat(each, counts)
    return starts, whose, np.arange(starts[-1], dtype=np.int32) - starts[whose]


def _column(numbers: Sequence[int]) -> HostArray:
    return np.fromiter(numbers, np.int32, len(numbers))  # half the time of np.array


def _padded(blocks: Sequence[int], width: int) -> list[int]:
    return list(blocks[:width]) + [0] * (width - len(blocks))


def _table(tables: Sequence[bytes], width: int) -> HostArray:
    """[S, width]; what is missing is 0."""
    size = max(map(len, tables))
    whole = b"".join(tables)
    if len(whole) < size * len(tables):
        whole = b"".join([table.ljust(size, b"\0") for table in tables])
    return np.frombuffer(whole, np.int32).reshape(len(tables), -1)[:, :width]


def _views(buffer: HostArray, lengths: list[int], width: int) -> Batch[HostArray]:
    """The fields that lie in a buffer one behind the other."""
    views, start = [], 0
    for length in lengths:
        views.append(buffer[start : start + length])
        start += length
    tokens, positions, slots, starts, contexts, tables, rows = views
    return Batch(tokens, positions, slots, starts, contexts, tables.reshape(-1, width), rows)
