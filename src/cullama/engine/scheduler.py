"""Who takes part in the next step, with how many tokens, and who has to wait. Integers only.

Iteration-level scheduling (Yu et al., "Orca", OSDI 2022): a sequence joins and leaves between any
two steps. Those that write take part with one token each; what is left of the step's budget goes
to those that read, some of their prompt at a time (Agrawal et al., "Sarathi-Serve", OSDI 2024), so
that a long prompt holds nobody up.

Everything scarce goes by rank, which is the order of arrival; a priority is a head start of so many
places. Where blocks run out, those of lower rank give theirs up and come back later: what they had
computed is computed again, as far as the prefix cache has forgotten it. The first in rank is never
passed over, so it ends, and then the next is first: nobody waits for ever.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, repeat

from .metrics import Metrics
from .prefix_cache import Copy, PrefixCache
from .sequence import Sequence, Stage

HEAD_START = 64  # places in the queue that one step of priority is worth

# Tokens that may lie ready for a reader; a sequence that is further ahead pauses.
MOST_AHEAD = 1024


@dataclass
class Plan:
    """One pass of the model."""

    writers: list[Sequence] = field(default_factory=list)  # their newest token, and their guesses
    readers: list[tuple[Sequence, int]] = field(default_factory=list)  # so many tokens of each
    copies: list[Copy] = field(default_factory=list)  # to be made before, in order; then emptied
    has_guesses: bool = False  # whether any writer has

    def __post_init__(self) -> None:
        """All who take part, with how many tokens."""
        counts: Iterable[int] = repeat(1)
        if self.has_guesses:
            counts = (1 + len(writer.guesses) for writer in self.writers)
        self.parts = [*zip(self.writers, counts, strict=False), *self.readers]

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.parts)

    def __iter__(self) -> Iterator[tuple[Sequence, int]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.writers) + len(self.readers)

    def one_by_one(self) -> Iterator[Plan]:
        """The same in a pass for each; what is to be copied comes with whichever is the first."""
        for writer in self.writers:
            yield Plan([writer], copies=self.copies, has_guesses=self.has_guesses)
        for reader in self.readers:
            yield Plan(readers=[reader], copies=self.copies)


class Scheduler:
    def __init__(
        self,
        cache: PrefixCache,
        token_budget: int,
        most_running: int,
        metrics: Metrics | None = None,
    ) -> None:
        assert most_running < token_budget, "those who write would leave nothing to those who read"
        self.cache, self.metrics = cache, metrics or Metrics()
        self.token_budget, self.most_running = token_budget, most_running
        self.waiting: list[Sequence] = []  # for room; each of these in order of rank
        self.reading: list[Sequence] = []
        self.writing: list[Sequence] = []
        self.landing: list[Sequence] = []  # their last token is on its way
        self.paused: list[Sequence] = []  # too far ahead of whoever reads the answer
        self._queues: dict[Stage, list[Sequence]] = {
            "waiting": self.waiting,
            "reading": self.reading,
            "writing": self.writing,
            "landing": self.landing,
            "paused": self.paused,
        }
        # What those who came in need copied, until a pass has begun with it: one that is cut short
        # before leaves it to the next.
        self.copies: list[Copy] = []
        self._arrivals = count()

    @property
    def is_guessing(self) -> bool:
        """Whether anybody's next tokens are to be guessed."""
        return any(writer.lookup for writer in self.writing)

    @property
    def has_work(self) -> bool:
        return bool(self.reading or self.writing) or any(map(_is_ready, self.waiting))

    @property
    def running(self) -> list[Sequence]:
        """All that hold blocks."""
        return [*self.writing, *self.reading, *self.landing, *self.paused]

    @property
    def seats_taken(self) -> int:
        return len(self.writing) + len(self.reading) + len(self.landing) + len(self.paused)

    def add(self, sequence: Sequence, priority: int = 0) -> None:
        arrival = next(self._arrivals)
        sequence.rank = (arrival - priority * HEAD_START, arrival)
        self._move(sequence, "waiting")

    def schedule(self) -> Plan:
        """The next step; never more tokens than the budget."""
        guesses = self._guess()
        starved = {writer for writer in self._without_room(guesses) if not self._grow(writer)}
        self._admit(self.token_budget - len(self.writing) - guesses)
        writers = [w for w in self.writing if w not in starved] if starved else self.writing[:]
        return Plan(writers, self._choose_readers(writers, guesses), self.copies, guesses > 0)

    def _choose_readers(self, writers: list[Sequence], guesses: int) -> list[tuple[Sequence, int]]:
        """With what those who write leave of the budget."""
        budget = self.token_budget - len(writers) - guesses
        readers: list[tuple[Sequence, int]] = []
        for reader in self.reading:
            if budget <= 0:
                break
            tokens = min(reader.pending, budget)
            readers.append((reader, tokens))
            budget -= tokens
        return readers

    def has_launched(self, plan: Plan) -> None:
        """A pass over the plan has begun; its tokens are on their way."""
        for sequence, tokens in plan:
            sequence.computed += tokens - len(sequence.guesses)
            if sequence.computed < len(sequence):
                continue
            sequence.in_flight = 1
            if not sequence.guesses and sequence.drawn + 1 >= sequence.max_tokens:
                self._move(sequence, "landing")
            elif sequence.stage == "reading":
                self._move(sequence, "writing")

    def recall(self, plan: Plan) -> None:
        """It has failed, and is to be done again."""
        for sequence, tokens in plan:
            if sequence.blocks:  # or else it gave them up, and begins again anyway
                sequence.computed -= tokens - len(sequence.guesses)
            sequence.in_flight = 0

    def has_drawn(self, sequence: Sequence, sound: int) -> None:
        """So many of its tokens led to a token: others may now begin with its prompt."""
        if not sequence.blocks or sound > sequence.computed:  # gave them up meanwhile
            return
        is_first = sequence.sound < sequence.prompt_length
        sequence.sound = max(sequence.sound, sound)
        if is_first:
            self.cache.list_blocks(sequence)

    def pause(self, sequence: Sequence) -> None:
        """Let a sequence rest whose reader has fallen behind."""
        self._move(sequence, "paused")

    def resume(self, sequence: Sequence) -> None:
        if sequence.stage == "paused":
            self._move(sequence, "writing")

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its blocks back."""
        if sequence.stage != "out":
            self._move(sequence, "out")
            self.cache.close(sequence)

    def _move(self, sequence: Sequence, stage: Stage) -> None:
        if sequence.stage != "out":
            self._queues[sequence.stage].remove(sequence)
        sequence.stage = stage
        if stage != "out":
            insort(self._queues[stage], sequence, key=_rank)

    def _guess(self) -> int:
        """Guesses take room in a pass that nobody else wants; returns how many there are."""
        guesses = 0
        for writer in [w for w in self.writing if w.lookup]:
            assert writer.lookup is not None
            room = 0 if self.reading or self.waiting else self.token_budget // len(self.writing) - 1
            most = min(writer.params.speculation, room, writer.max_tokens - writer.drawn - 1)
            writer.guesses = writer.lookup.guess(most) if most > 0 else []
            guesses += len(writer.guesses)
        return guesses

    # --- room ----------------------------------------------------------------------------------

    def _without_room(self, guesses: int) -> list[Sequence]:
        """Those that write, and whose next tokens need another block."""
        if not guesses:
            return [w for w in self.writing if w.computed >= w.room]
        return [w for w in self.writing if w.computed + len(w.guesses) >= w.room]

    def _grow(self, writer: Sequence) -> bool:
        """Room for its next token; where those before it have it all, it sits this one out."""
        while writer.blocks:  # it may have had to give them up to one before it
            if self.cache.grow(writer, writer.computed + 1 + len(writer.guesses)):
                return True
            if writer.guesses:
                writer.guesses = []
            elif not self._preempt_for(writer):
                return False
        return False

    def _admit(self, budget: int) -> None:
        """Let those in that are waiting, as far as seats, blocks and tokens go.

        In order of rank: a large request is not overtaken for ever by small ones, and nobody waits
        for tokens that go to readers behind it.
        """
        for sequence in filter(_is_ready, list(self.waiting)):
            before = sum(r.pending for r in self.reading if r.rank < sequence.rank)
            if before >= budget or not self._has_seat(sequence):
                break
            copies = self._open(sequence)
            if copies is None:
                break
            self.copies += copies
            if not sequence.has_been_in:
                sequence.has_been_in = True
                sequence.cached = sequence.computed
                self.metrics.prompt_tokens += len(sequence)
                self.metrics.cached_tokens += sequence.cached
            self._move(sequence, "reading")

    def _has_seat(self, sequence: Sequence) -> bool:
        while self.seats_taken >= self.most_running:
            if not self._preempt_for(sequence):
                return False
        return True

    def _open(self, sequence: Sequence) -> list[Copy] | None:
        """One spare block for each that is running: whoever comes in should not have to leave at
        the next step."""
        while (copies := self.cache.open(sequence, spare=self.seats_taken)) is None:
            if not self._preempt_for(sequence):
                return None
        return copies

    def _preempt_for(self, sequence: Sequence) -> bool:
        """Take the blocks of the last in rank behind this one; of one whose reader sleeps, first.

        Preemption by recomputing (Kwon et al., SOSP 2023).
        """
        queues = [self.paused] if self.paused else [self.writing, self.reading]
        victim = max((queue[-1] for queue in queues if queue), key=_rank, default=sequence)
        if victim is sequence or (victim.rank < sequence.rank and not self.paused):
            return False
        self.remove(victim)
        victim.guesses = []
        self._move(victim, "waiting")
        self.metrics.preemptions += 1
        return True


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def is_far_ahead(sequence: Sequence) -> bool:
    """Of its reader."""
    return sequence.drawn - sequence.taken >= MOST_AHEAD


def _is_ready(sequence: Sequence) -> bool:
    """Its reader wants tokens, none is on its way, and its prompt is not being read already."""
    leader = sequence.leader
    return (
        not is_far_ahead(sequence)
        and not sequence.in_flight
        and (leader is None or leader.drawn > 0 or leader.is_finished)
    )
