"""Cuts a prompt into passes of the model, alone or batched with other sequences.

Batches are built on the host, as integers; nothing is run here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..files.tensor import HostArray
from ..model.batch import Batch, Chunk, build_batch


class PromptPass(NamedTuple):
    """One pass over a part of the prompt."""

    batch: Batch[HostArray]
    start: int  # position of the first of the prompt's tokens
    rows: slice  # of the prompt's tokens in the batch


def prompt_passes(
    tokens: Sequence[int],
    block_size: int,
    chunk: int = 0,
    others: Sequence[Sequence[int]] = (),
) -> Iterator[PromptPass]:
    """Yield the passes that compute a prompt, with the logits of each of its tokens.

    Args:
        tokens: the prompt.
        block_size: tokens in a block of the KV cache.
        chunk: tokens in each pass; 0 takes all in one.
        others: prompts of the same length, computed in the same passes; half of them come before
            ours in the batch, the others after it.
    """
    chunk = chunk or len(tokens)
    ours = (1 + len(others)) // 2
    prompts = [*others[:ours], tokens, *others[ours:]]
    count = len(prompts)
    # Blocks are dealt in turn, so that those of one sequence are not neighbours in the cache.
    blocks = [range(row, count * blocks_for(tokens, block_size), count) for row in range(count)]
    for start in range(0, len(tokens), chunk):
        length = len(tokens[start : start + chunk])
        chunks = [
            Chunk(prompt[start : start + chunk], start, blocks[row], length if row == ours else 0)
            for row, prompt in enumerate(prompts)
        ]
        rows = slice(ours * length, (ours + 1) * length)
        yield PromptPass(build_batch(chunks, block_size), start, rows)


def blocks_for(tokens: Sequence[int], block_size: int) -> int:
    """Return how many blocks of the KV cache a prompt takes."""
    return -(-len(tokens) // block_size)
