"""One of the two settings: a model, and how the prompt goes through it.

It knows passes: the prompt cut into pieces, and other rows in the batch beside it. It does not
know what is looked at, nor what it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ...engine.validation import check_prompt_alone
from ...errors import UsageError
from ...model.batch import Chunk, build_batch
from ..watching import Pass, Watch, run_watched

if TYPE_CHECKING:
    from ...llm import LLM

Pair: TypeAlias = "tuple[int, int]"  # of the first side, of the second

MOST_ROWS = 256


@dataclass(frozen=True)
class Side:
    """`batch`: sequences in each pass, ours among them. `chunk`: tokens of ours in each pass;
    0 takes the whole prompt at once."""

    llm: LLM
    batch: int = 1
    chunk: int = 0

    def __post_init__(self) -> None:
        _check_count("batch", self.batch, 1, MOST_ROWS)
        _check_count("chunk", self.chunk, 0, 1 << 30)

    @property
    def description(self) -> str:
        pieces = f"chunks of {self.chunk}" if self.chunk else "whole prompt"
        return f"{self.llm.description} · batch {self.batch} · {pieces}"

    def check(self, tokens: list[int]) -> None:
        """Whether this side can take the prompt.

        Raises:
            UsageError: an empty prompt, or ids outside the vocabulary.
            ContextLengthError: a prompt longer than the context.
        """
        check_prompt_alone(tokens, self.llm.engine.capacity)

    def run(self, tokens: list[int], watch: Watch, is_detailed: bool) -> None:
        """The prompt through the model, with everything it gives shown to `watch`."""
        with self.llm.engine.exclusive() as insider:
            block_size = insider.block_size
            blocks = -(-len(tokens) // block_size)
            passes = self._passes(tokens, blocks, block_size)
            room = self.batch * blocks * block_size
            run_watched(insider.model, passes, room, watch, is_detailed)

    def _passes(self, tokens: list[int], blocks: int, block_size: int) -> Iterator[Pass]:
        ours = self.batch // 2  # in the middle: others before it, others behind
        texts = [
            tokens if row == ours else _companion(tokens, row + 1, self.llm.config.vocab_size)
            for row in range(self.batch)
        ]
        # Dealt out in turn, so that in company no sequence's blocks lie next to each other.
        owned = [range(row, self.batch * blocks, self.batch) for row in range(self.batch)]
        for start in range(0, len(tokens), self.chunk or len(tokens)):
            parts = [text[start : start + (self.chunk or len(tokens))] for text in texts]
            count = len(parts[ours])
            chunks = [
                Chunk(part, start, owned[row], count if row == ours else 0)
                for row, part in enumerate(parts)
            ]
            rows = slice(ours * count, (ours + 1) * count)
            yield Pass(build_batch(chunks, block_size), start, rows)


def two_sides(first: LLM, second: LLM, batches: Pair, chunks: Pair) -> tuple[Side, Side]:
    """Raises UsageError: what is no model, no pair, or no number that can be."""
    from ...llm import LLM

    if not isinstance(second, LLM):
        raise UsageError(f"other is {second!r:.80}, expected an LLM")
    for name, pair in (("batches", batches), ("chunks", chunks)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"{name} is {pair!r}, expected a number for each side, such as (1, 8)")
    return Side(first, batches[0], chunks[0]), Side(second, batches[1], chunks[1])


def _companion(tokens: Sequence[int], shift: int, vocabulary: int) -> list[int]:
    """Another text of the same length, so that what leaks from row to row is seen."""
    return [(token + shift) % vocabulary for token in tokens]


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
