"""The only caller of the model: turns a plan into one forward pass.

It knows batches and the cache; it does not decide who takes part, nor when a text ends.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, Piece, build_batch, build_large_batch
from ..errors import NumericalError
from ..kv_cache import KVCache
from ..llama import Llama
from ..sampling import Draw, Drawn
from ..sequence import Sequence
from ..tensor import HostArray
from .scheduler import Plan

Array = TypeVar("Array")

FEW_SEQUENCES = 12  # up to so many, a batch is built faster without numpy


class Outcome(NamedTuple):
    """What a pass gave one sequence."""

    sequence: Sequence
    tokens: int  # that went through the model
    drawn: list[Drawn | NumericalError]  # behind its newest token, and behind each guess


class Runner(Generic[Array]):
    def __init__(self, model: Llama[Array], cache: KVCache[Array]) -> None:
        self.model, self.cache, self.ops = model, cache, model.ops
        self.forward = model.ops.graph(lambda batch: model.forward(batch, cache))

    def step(self, plan: Plan) -> list[Outcome]:
        """One pass; it changes no sequence, so it can be repeated."""
        if plan.copies:
            self.ops.copy_blocks(self.cache, plan.copies)
            plan.copies.clear()  # once: by now the pass may write to where they came from
        logits = self.forward(self.ops.upload_batch(plan_batch(plan, self.cache.block_size)))
        draws = [draw for sequence, tokens in plan for draw in _draws(sequence, tokens)]
        drawn = iter(self.ops.sample(logits, draws) if draws else [])
        return [
            Outcome(sequence, tokens, [next(drawn) for _ in range(_wanted(sequence, tokens))])
            for sequence, tokens in plan
        ]

    def logits(self, pieces: Many[Piece]) -> NDArray[np.float32]:
        """The logits the pieces ask for, [R, V]; their keys and values go to their blocks."""
        batch = build_batch(pieces, self.cache.block_size)
        return self.ops.download(self.forward(self.ops.upload_batch(batch)))


def plan_batch(plan: Plan, block_size: int) -> Batch[HostArray]:
    if len(plan) <= FEW_SEQUENCES:
        pieces = [
            Piece(s.next_tokens(tokens), s.computed, s.blocks, _wanted(s, tokens))
            for s, tokens in plan
        ]
        return build_batch(pieces, block_size)
    everyone = [*plan.writers, *(sequence for sequence, _ in plan.readers)]
    counts = plan.counts
    tokens = [s.tokens[-1] for s in plan.writers]
    wanted = [1] * len(plan.writers)
    if plan.guesses:
        tokens = [token for s in plan.writers for token in (s.tokens[-1], *s.guesses)]
        wanted = counts[: len(plan.writers)]
    for sequence, count in plan.readers:
        tokens += sequence.next_tokens(count)
        wanted.append(_wanted(sequence, count))
    return build_large_batch(
        tokens,
        [s.computed for s in everyone],
        counts,
        wanted,
        [s.table for s in everyone],
        block_size,
    )


def _wanted(sequence: Sequence, tokens: int) -> int:
    """Rows of logits: for its newest token and each guess, once all before is computed."""
    return max(0, tokens - sequence.pending + 1)


def _draws(sequence: Sequence, tokens: int) -> list[Draw]:
    return [sequence.draw(guessed) for guessed in range(_wanted(sequence, tokens))]
