"""The only caller of the model: turns a plan into one forward pass.

It knows batches and the cache; it does not decide who takes part, nor when a text ends.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import NumericalError
from ..files.tensor import HostArray
from ..model.batch import Batch, Chunk, build_batch, build_large_batch
from ..model.kv_cache import KVCache
from ..model.llama import Llama
from ..sampling.draw import Drawn
from .prefix_cache import Copy
from .scheduler import Plan
from .sequence import Sequence

Array = TypeVar("Array")

FEW_SEQUENCES = 12  # up to so many, a batch is built faster without numpy


@dataclass
class Outcome:
    """What a pass gave one sequence."""

    sequence: Sequence
    sound: int  # tokens whose keys and values it came from
    guesses: list[int]
    drawn: list[Drawn | NumericalError]  # behind its newest token, and behind each guess
    appended: int = 0
    right: int = 0  # guesses
    error: NumericalError | None = None
    is_void: bool = False  # drew nothing, or for one that had ended meanwhile

    def append(self) -> None:
        """The tokens up to the first that nobody guessed, or up to an error."""
        sequence = self.sequence
        sequence.in_flight = 0
        sequence.guesses = []
        self.is_void = not self.drawn or sequence.is_finished
        if self.is_void:
            return
        for token, guess in zip(self.drawn, [*self.guesses, None], strict=True):
            if isinstance(token, NumericalError):
                self.error = token
                break
            sequence.append(token)
            self.appended += 1
            if token.token != guess or sequence.is_finished:
                break
        self.right = max(0, self.appended - (self.error is None))
        self.sound += self.right
        sequence.computed += self.right


class Flight(NamedTuple):
    """A pass that has been launched."""

    plan: Plan
    read: Callable[[], list[Outcome]]  # waits until it is over


class Runner(Generic[Array]):
    def __init__(self, model: Llama[Array], cache: KVCache[Array]) -> None:
        self.model, self.cache, self.ops = model, cache, model.ops
        self.is_asynchronous = model.ops.is_asynchronous
        self.forward = model.ops.graph(lambda batch: model.forward(batch, cache))

    def launch(self, plan: Plan, batch: Batch[HostArray]) -> Flight:
        """Begin a pass; it changes no sequence, so it can be repeated."""
        self.make(plan.copies)
        if self.is_asynchronous and not plan.has_guesses:
            # These were on their way when the batch was built.
            batch.tokens[: len(plan.writers)] = [writer.tokens[-1] for writer in plan.writers]
        logits = self.forward(self.ops.upload_batch(batch))
        shares = [_share(sequence, tokens) for sequence, tokens in plan]
        draws = [share.sequence.draw(i) for share in shares for i in range(share.wanted)]
        drawn = self.ops.sample(logits, draws) if draws else list
        return Flight(plan, partial(_outcomes, drawn, shares))

    def close(self) -> None:
        """The model's memory goes back to where it came from."""
        self.ops.close()

    def make(self, copies: list[Copy]) -> None:
        """Once: by the next pass, others may write to where they came from."""
        if copies:
            self.ops.copy_blocks(self.cache, copies)
            copies.clear()

    def logits(self, chunks: Many[Chunk]) -> NDArray[np.float32]:
        """The logits the chunks ask for, [R, V]; their keys and values go to their blocks."""
        batch = build_batch(chunks, self.cache.block_size)
        return self.ops.download(self.forward(self.ops.upload_batch(batch)))


def plan_batch(plan: Plan, block_size: int) -> Batch[HostArray]:
    if len(plan) <= FEW_SEQUENCES:
        chunks = [
            Chunk(s.next_tokens(tokens), s.computed, s.blocks, _wanted(s, tokens))
            for s, tokens in plan
        ]
        return build_batch(chunks, block_size)
    everyone = plan.writers + [sequence for sequence, _ in plan.readers]
    tokens = [s.tokens[-1] for s in plan.writers]
    counts = [1] * len(plan.writers)
    if plan.has_guesses:
        tokens = [token for s in plan.writers for token in (s.tokens[-1], *s.guesses)]
        counts = [1 + len(s.guesses) for s in plan.writers]
    wanted = counts[:]
    for sequence, count in plan.readers:
        tokens += sequence.next_tokens(count)
        counts.append(count)
        wanted.append(_wanted(sequence, count))
    starts, tables = [s.computed for s in everyone], [s.table for s in everyone]
    return build_large_batch(tokens, starts, counts, wanted, tables, block_size)


class _Share(NamedTuple):
    sequence: Sequence
    sound: int
    guesses: list[int]
    wanted: int


def _share(sequence: Sequence, tokens: int) -> _Share:
    guesses = sequence.guesses
    sound = sequence.computed + tokens - len(guesses)
    return _Share(sequence, sound, guesses, _wanted(sequence, tokens))


def _outcomes(
    read: Callable[[], list[Drawn | NumericalError]], shares: list[_Share]
) -> list[Outcome]:
    drawn = iter(read())
    return [
        Outcome(share.sequence, share.sound, share.guesses, list(islice(drawn, share.wanted)))
        for share in shares
    ]


def _wanted(sequence: Sequence, tokens: int) -> int:
    """Rows of logits: for its newest token and each guess, once all before is computed.

    The pass that was to bring its newest token may have ended in an error: then that is pending
    no more, and it still has no more rows than tokens in this pass, from which nothing is taken.
    """
    return max(0, min(tokens, tokens - sequence.pending + 1))
