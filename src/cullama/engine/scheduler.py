"""Which sequences take part in the next step, with how many tokens each. Integers only.

Iteration-level scheduling (Yu et al., "Orca", OSDI 2022): a sequence joins and leaves between any
two steps. There is no prefill phase: whoever has tokens that the model has not seen catches up,
within a budget of tokens a step: first those that write, one token each, then those that read,
in order of arrival.
"""

from __future__ import annotations

from collections import deque

from ..sequence import Sequence
from .blocks import BlockPool


class Scheduler:
    def __init__(
        self, pool: BlockPool, block_size: int, token_budget: int, most_running: int
    ) -> None:
        self.pool, self.block_size = pool, block_size
        self.token_budget, self.most_running = token_budget, most_running
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def blocks_for(self, sequence: Sequence) -> int:
        return -(-sequence.longest // self.block_size)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[tuple[Sequence, int]]:
        """Sequences and how many tokens of each; never more tokens than the budget."""
        self._admit()
        chosen: list[tuple[Sequence, int]] = []
        budget = self.token_budget
        for sequence in sorted(self.running, key=_is_catching_up):
            if budget == 0:
                break
            count = min(sequence.pending, budget)
            chosen.append((sequence, count))
            budget -= count
        return chosen

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _admit(self) -> None:
        """In order of arrival: a large request is not overtaken for ever by small ones."""
        while self.waiting and len(self.running) < self.most_running:
            blocks = self.pool.allocate(self.blocks_for(self.waiting[0]))
            if blocks is None:
                return
            sequence = self.waiting.popleft()
            sequence.blocks = blocks
            self.running.append(sequence)


def _is_catching_up(sequence: Sequence) -> bool:
    """Has more than its newest token to feed; among equals, the order of arrival stands."""
    return sequence.pending > 1
