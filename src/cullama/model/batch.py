"""One forward pass, described in integers: which tokens, their positions, their slots in the cache.

A batch is ragged: each sequence brings as many tokens as it has to compute, one or a thousand. It
is built on the host in one buffer, so that it can be uploaded in one copy. It handles no requests
and runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

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
    logit_rows: Array  # [R]     the tokens whose logits are asked for


# A backend's own class of batch: these arrays on the device, and what its kernels need beside them.
BatchType = TypeVar("BatchType", bound=Batch[Any])


class Chunk(NamedTuple):
    """What one sequence contributes: `tokens`, the first of them at position `start`."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]  # at least enough for start + len(tokens)
    logits: int  # how many of its last tokens' logits are asked for


def build_batch(chunks: Sequence[Chunk], block_size: int) -> Batch[HostArray]:
    """Build a batch chunk by chunk: what `build_large_batch` means, and faster for a few."""
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
    width = -(-max(lengths) // block_size)
    tables: list[int] = []
    for chunk in chunks:
        tables += chunk.blocks[:width]
        tables += [0] * (width - len(chunk.blocks))
    numbers = tokens + positions + slots + starts + lengths + tables + rows
    sizes = map(len, (tokens, positions, slots, starts, lengths, tables, rows))
    return _views(np.array(numbers, np.int32), list(sizes), width)


def build_large_batch(
    tokens: Sequence[int],
    starts: Sequence[int],
    counts: Sequence[int],
    num_logits: Sequence[int],
    tables: Sequence[bytes],
    block_size: int,
) -> Batch[HostArray]:
    """Build the same batch, with few calls into numpy however many sequences there are.

    For each sequence: `starts`, the position of its first token here; `counts`, how many of
    `tokens` it has; `num_logits`, how many of those, the last ones, get logits; `tables`, its
    blocks as the bytes of an int32 array.
    """
    first, count, rows, ids = map(_column, (starts, counts, num_logits, tokens))
    lengths = first + count
    query_starts, sequences, offsets = _expand(count)
    positions = first[sequences] + offsets
    width = int(-(-lengths.max() // block_size))
    size = max(map(len, tables))
    joined = b"".join(tables)
    if len(joined) < size * len(tables):
        joined = b"".join([table.ljust(size, b"\0") for table in tables])
    table = np.frombuffer(joined, np.int32).reshape(len(tables), -1)[
        :, :width
    ]  # what is missing: 0
    slots = table[sequences, positions // block_size] * block_size + positions % block_size
    _, sequences, offsets = _expand(rows)
    logit_rows = (query_starts[1:] - rows)[sequences] + offsets
    fields = [ids, positions, slots, query_starts, lengths, table.reshape(-1), logit_rows]
    return _views(np.concatenate(fields), [len(field) for field in fields], width)


def _expand(counts: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    """Number the items of S sequences that are laid end to end.

    Returns where each sequence starts and the last one ends [S + 1], the sequence of each item, and
    the index of each item in its sequence.
    """
    each = np.arange(len(counts), dtype=np.int32)
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    if starts[-1] == len(counts) and counts.all():  # one each
        return starts, each, np.zeros_like(each)
    sequences = np.repeat(each, counts)
    return starts, sequences, np.arange(starts[-1], dtype=np.int32) - starts[sequences]


def _column(numbers: Sequence[int]) -> HostArray:
    return np.fromiter(numbers, np.int32, len(numbers))  # half the time of np.array


def _views(buffer: HostArray, sizes: list[int], width: int) -> Batch[HostArray]:
    """The fields of a batch, laid end to end in one buffer."""
    views, start = [], 0
    for size in sizes:
        views.append(buffer[start : start + size])
        start += size
    tokens, positions, slots, starts, contexts, tables, rows = views
    return Batch(tokens, positions, slots, starts, contexts, tables.reshape(-1, width), rows)
