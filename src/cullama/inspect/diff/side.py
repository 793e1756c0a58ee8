"""One of the two settings that are compared: a model, and how the prompt's passes are made.

A pass may take a chunk of the prompt only, and may hold other sequences beside it. What is
observed is the caller's business, in `recording.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ...engine.validation import check_prompt_alone
from ...errors import UsageError
from ..instrumented import run_instrumented
from ..passes import blocks_for, prompt_passes

if TYPE_CHECKING:
    from ..inspected import InspectedModel
    from ..instrumented import Observer

Pair: TypeAlias = "tuple[int, int]"  # for the first side, for the second

MAX_BATCH = 256


@dataclass(frozen=True)
class Side:
    """`batch`: sequences in each pass, the prompt among them. `chunk`: tokens of the prompt in
    each pass; 0 takes all in one."""

    llm: InspectedModel
    batch: int = 1
    chunk: int = 0

    def __post_init__(self) -> None:
        _check_count("batch", self.batch, 1, MAX_BATCH)
        _check_count("chunk", self.chunk, 0, 1 << 30)

    @property
    def description(self) -> str:
        how = f"chunks of {self.chunk}" if self.chunk else "whole prompt"
        return f"{self.llm.description} · batch {self.batch} · {how}"

    def check(self, tokens: list[int]) -> None:
        """Check that this side can take the prompt.

        Raises:
            UsageError: an empty prompt, or ids outside the vocabulary.
            ContextLengthError: a prompt longer than the context.
        """
        check_prompt_alone(tokens, self.llm.engine.capacity)

    def others(self, tokens: list[int]) -> list[list[int]]:
        """Return the other sequences of the batch: as long as the prompt, and all different, so
        that an operator which mixes rows shows."""
        ours, vocabulary = self.batch // 2, self.llm.config.vocab_size
        return [
            [(token + row + 1) % vocabulary for token in tokens]
            for row in range(self.batch)
            if row != ours
        ]

    def run(self, tokens: list[int], observer: Observer, is_detailed: bool) -> None:
        """Run the prompt with every operator's result shown to `observer`."""
        with self.llm.engine.exclusive() as access:
            passes = prompt_passes(tokens, access.block_size, self.chunk, self.others(tokens))
            blocks = self.batch * blocks_for(tokens, access.block_size)
            run_instrumented(access, passes, blocks, observer, is_detailed)


def two_sides(
    first: InspectedModel, second: InspectedModel, batches: Pair, chunks: Pair
) -> tuple[Side, Side]:
    """Make both sides from the arguments of `llm.diff`.

    Raises:
        UsageError: batches or chunks that are not a pair, or out of range.
    """
    for name, pair in (("batches", batches), ("chunks", chunks)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"{name} is {pair!r}, expected a number for each side, such as (1, 8)")
    return Side(first, batches[0], chunks[0]), Side(second, batches[1], chunks[1])


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
