"""A cache that remembers for which text each of its slots was computed, and a model that reads it.

Scheduler and prefix cache run against this as they do in the engine, and whoever reads a slot
finds out whether it holds what it should. The next token follows from all tokens before it, so
each text can also be written alone, without any of the machinery: that is what it must equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from zlib import crc32

from cullama.engine import scheduler as scheduling
from cullama.engine.metrics import Metrics
from cullama.engine.prefix_cache import Copy, PrefixCache
from cullama.engine.runner import Outcome
from cullama.engine.scheduler import Plan, Scheduler
from cullama.engine.sequence import FinishReason, Sequence
from cullama.engine.speculation import PromptLookup
from cullama.errors import NumericalError
from cullama.sampling.draw import Drawn
from cullama.sampling.params import SamplingParams

BLOCK_SIZE = 4
VOCABULARY = 5
NOTHING, DAMAGED = -1, -2  # what a slot holds that no text was computed for


def next_token(tokens: list[int]) -> int:
    """Repeats itself often enough for some guesses to be right, and not for all."""
    seen = tokens if len(tokens) % 7 == 0 else tokens[-2:]
    return crc32(bytes(seen)) % VOCABULARY


def written_alone(prompt: list[int], max_tokens: int, ends: Collection[int] = ()) -> list[int]:
    """The answer that a sequence gets which has the machine for itself."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


class Memory:
    """Of each slot: the number of the text up to and with its token."""

    def __init__(self, blocks: int) -> None:
        self.slots = [[NOTHING] * BLOCK_SIZE for _ in range(blocks)]
        self._numbers: dict[tuple[int, int], int] = {}

    def numbers(self, tokens: Iterable[int]) -> list[int]:
        """Of the first token, the first two, and so on: the same for equal texts, and no others."""
        number, numbers = 0, []
        for token in tokens:
            number = self._numbers.setdefault((number, token), len(self._numbers) + 1)
            numbers.append(number)
        return numbers

    def copy(self, copies: Iterable[Copy]) -> None:
        for source, target in copies:
            self.slots[target] = list(self.slots[source])

    def write(
        self, cache: PrefixCache, sequence: Sequence, tokens: int, is_damaged: bool = False
    ) -> list[tuple[int, int]]:
        """What a pass keeps of so many tokens; returns the slots."""
        numbers = self.numbers(sequence.tokens + sequence.guesses)
        written = []
        for position in range(sequence.computed, sequence.computed + tokens):
            index, offset = divmod(position, BLOCK_SIZE)
            block = sequence.blocks[index]
            assert cache.pool.holders(block) == 1, "nobody writes to what others read"
            assert offset >= listed_in(cache, block), "nobody writes to what others may find"
            self.slots[block][offset] = DAMAGED if is_damaged else numbers[position]
            written.append((block, offset))
        return written

    def check(self, blocks: Iterable[int], tokens: list[int]) -> None:
        """Whether these tokens, and all before each of them, are what is in the blocks."""
        found = [number for block in blocks for number in self.slots[block]]
        assert found[: len(tokens)] == self.numbers(tokens)

    def check_match(self, cache: PrefixCache, tokens: list[int]) -> int:
        """Whether the cache really has what it says it has of a text; returns how much that is."""
        match = cache.match(tokens)
        shared = len(match.blocks) * BLOCK_SIZE
        assert shared <= match.tokens < max(1, len(tokens))
        assert (match.tokens > shared) == (match.partial is not None)
        partial = [] if match.partial is None else [match.partial]
        self.check([*match.blocks, *partial], tokens[: match.tokens])
        return match.tokens


def listed_in(cache: PrefixCache, block: int) -> int:
    """How many tokens of a block can be found. (No question that anyone but a test would ask.)"""
    node = cache._nodes.get(block)
    return 0 if node is None else len(node.tokens)


def check_holders(cache: PrefixCache, sequences: Iterable[Sequence]) -> None:
    """Whether each block is held by those sequences that have it, and all others by none."""
    pool = cache.pool
    holders: Counter[int] = Counter()
    for sequence in sequences:
        assert len(set(sequence.blocks)) == len(sequence.blocks)
        assert sequence.room == len(sequence.blocks) * BLOCK_SIZE
        holders.update(sequence.blocks)
    assert [pool.holders(block) for block in range(pool.count)] == [
        holders[block] for block in range(pool.count)
    ]
    assert pool.held == len(holders)
    assert min(pool.free, pool.kept) >= 0
    assert pool.free + pool.held + pool.kept == pool.count


def check_nothing_is_lost(cache: PrefixCache) -> None:
    """Whether all blocks can be had again, once nobody has any."""
    pool = cache.pool
    assert pool.held == 0
    assert pool.free + pool.kept == pool.count
    everything = pool.allocate(pool.count)
    assert sorted(everything or []) == list(range(pool.count))
    assert pool.kept == 0
    assert cache._root.children == {}, "what was given away can still be found"
    pool.release(everything or [])
    assert pool.free == pool.count


class Simulation:
    """The engine, with `Memory` in place of a model; it looks at every plan before it runs it."""

    def __init__(self, blocks: int, budget: int, most_running: int) -> None:
        self.metrics = Metrics()
        self.cache = PrefixCache(blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(self.cache, budget, most_running, self.metrics)
        self.memory = Memory(blocks)
        self.alive: list[Sequence] = []
        self.ill: set[Sequence] = set()  # their next token will not be a number
        self.lazy: set[Sequence] = set()  # nobody reads these unless asked to
        self.steps = 0
        self.copies = 0
        self.passes: list[int] = []  # tokens of each

    def submit(
        self,
        prompt: list[int],
        max_tokens: int = 1,
        *,
        priority: int = 0,
        n: int = 1,
        speculation: int = 0,
        ends: Collection[int] = (),
        is_lazy: bool = False,
    ) -> list[Sequence]:
        assert blocks_for(len(prompt) + max_tokens - 1) <= self.cache.pool.count, "not for us"
        params = SamplingParams(n=n, speculation=speculation)
        sequences: list[Sequence] = []
        for index in range(n):
            leader = sequences[0] if sequences else None
            sequences.append(
                Sequence(list(prompt), params, max_tokens, 0, frozenset(ends), index, leader)
            )
        for sequence in sequences:
            if speculation:
                sequence.lookup = PromptLookup(sequence.tokens)
            self.scheduler.add(sequence, priority)
        self.alive += sequences
        if is_lazy:
            self.lazy.update(sequences)
        return sequences

    def step(self, failing: Collection[Sequence] = ()) -> Plan:
        """One pass; with any that are `failing` in it, it is repeated one by one, without them."""
        first, had_work = self.first_in_rank(), self.scheduler.has_work
        before = [*self.scheduler.writing, *self.scheduler.reading]
        plan = self.scheduler.schedule()
        self.check_who_left(before)
        assert (len(plan) > 0) == had_work
        self.check_plan(plan, first)
        self.copies += len(plan.copies)
        self.passes.append(plan.tokens)  # guesses are gone afterwards
        taking_part = [sequence for sequence, _ in plan]
        if any(sequence in failing for sequence in taking_part):
            self.break_down(plan)
            for each in plan.one_by_one():
                self.run(each, failing)
        else:
            self.run(plan)
        self.steps += 1
        for sequence in taking_part:
            if sequence not in self.lazy:
                self.take(sequence)
        return plan

    def run(self, plan: Plan, failing: Collection[Sequence] = ()) -> None:
        """All are written before any is read, as in each layer of a model."""
        self.copy(plan)
        everyone = list(plan)
        if any(sequence in failing for sequence, _ in everyone):
            [(sequence, _)] = everyone
            self.end(sequence, "error", RuntimeError("the pass went wrong"))
            return
        slots = [slot for each in everyone for slot in self.write(*each)]
        assert len(set(slots)) == len(slots), "two write to the same slot"
        for sequence, tokens in everyone:
            self.read(sequence, tokens)
        outcomes = [self.outcome(sequence, tokens) for sequence, tokens in everyone]
        self.scheduler.has_launched(plan)
        for outcome in outcomes:
            outcome.append()
            self.settle(outcome)

    def break_down(self, plan: Plan) -> None:
        """A pass that goes wrong has copied, and left whatever it likes in its own slots."""
        self.copy(plan)
        for sequence, tokens in plan:
            self.memory.write(self.cache, sequence, tokens, is_damaged=True)

    def copy(self, plan: Plan) -> None:
        """Once: the sources may be written over by the very pass that comes next."""
        self.memory.copy(plan.copies)
        plan.copies.clear()

    def write(self, sequence: Sequence, tokens: int) -> list[tuple[int, int]]:
        everything = sequence.tokens + sequence.guesses
        end = sequence.computed + tokens
        assert sequence.next_tokens(tokens) == everything[sequence.computed : end]
        return self.memory.write(self.cache, sequence, tokens, sequence in self.ill)

    def read(self, sequence: Sequence, tokens: int) -> None:
        if sequence not in self.ill:
            everything = sequence.tokens + sequence.guesses
            self.memory.check(sequence.blocks, everything[: sequence.computed + tokens])

    def outcome(self, sequence: Sequence, tokens: int) -> Outcome:
        """What a pass gives a sequence: a token behind its newest one, and behind each guess."""
        guesses = sequence.guesses
        drawn: list[Drawn | NumericalError] = []
        for guessed in range(max(0, tokens - sequence.pending + 1)):
            token = next_token(sequence.tokens + guesses[:guessed])
            is_ill = sequence in self.ill
            drawn.append(NumericalError("not a number") if is_ill else Drawn(token, None))
        return Outcome(sequence, sequence.computed + tokens - len(guesses), guesses, drawn)

    def settle(self, outcome: Outcome) -> None:
        """What the engine does with the tokens of a pass."""
        sequence = outcome.sequence
        if outcome.is_void:
            return
        if outcome.error is not None:
            self.end(sequence, "error", outcome.error)
            return
        self.learn(outcome)
        self.scheduler.has_drawn(sequence, outcome.sound)
        if sequence.is_finished:
            self.leave(sequence)
        elif sequence.drawn - sequence.taken >= scheduling.MOST_AHEAD:
            self.scheduler.pause(sequence)

    def learn(self, outcome: Outcome) -> None:
        if outcome.sequence.lookup is not None:
            outcome.sequence.lookup.learn(len(outcome.guesses), outcome.right)
            self.metrics.guessed_tokens += len(outcome.guesses)
            self.metrics.right_guesses += outcome.right

    def take(self, sequence: Sequence) -> None:
        was_ahead = sequence.drawn - sequence.taken >= scheduling.MOST_AHEAD
        sequence.taken = sequence.drawn
        if was_ahead:
            self.scheduler.resume(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Anyone, at any time, as often as one likes."""
        if sequence.is_finished:
            self.scheduler.remove(sequence)
        else:
            self.end(sequence, "cancelled")

    def end(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        sequence.end(reason, error)
        self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)
        answer = written_alone(sequence.prompt, sequence.max_tokens, sequence.end_ids)
        if sequence.finish_reason in ("stop", "length"):
            assert sequence.answer == answer, "not what it would have written alone"
        else:
            assert sequence.answer == answer[: sequence.drawn]

    def finish(self) -> None:
        """Until all have ended, which nobody may take longer for than one by one."""
        left = sum(self.longest_turn(sequence) for sequence in self.alive)
        for _ in range(left):
            for sequence in list(self.alive):
                self.take(sequence)
            if not self.alive:
                return
            self.step()
            self.check()
        assert not self.alive, "some wait for ever"

    # --- what must be so -----------------------------------------------------------------------

    @property
    def share(self) -> int:
        """Tokens of a step that are left to those who read, however many write."""
        return self.scheduler.token_budget - self.scheduler.most_running

    def longest_turn(self, sequence: Sequence) -> int:
        """Steps that a sequence needs at most while it is the first in rank."""
        return -(-sequence.longest // self.share) + sequence.max_tokens

    def first_in_rank(self) -> Sequence | None:
        """Of those that could go on, if they were let."""
        ready = [s for s in self.alive if s.stage != "paused" and is_ready(s)]
        return min(ready, key=lambda sequence: sequence.rank, default=None)

    def check_plan(self, plan: Plan, first: Sequence | None) -> None:
        everyone = dict(plan)
        assert len(everyone) == len(plan), "nobody takes part twice"
        assert sum(everyone.values()) == plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.most_running
        for sequence, tokens in everyone.items():
            assert sequence.computed + tokens <= sequence.room
        for writer in plan.writers:
            assert (writer.stage, writer.pending) == ("writing", 1)
            assert everyone[writer] == 1 + len(writer.guesses)
            assert len(writer.guesses) <= writer.params.speculation
            assert writer.drawn + everyone[writer] <= writer.max_tokens
        for index, (reader, tokens) in enumerate(plan.readers):
            assert reader.stage == "reading"
            assert 1 <= tokens <= reader.pending
            assert tokens == reader.pending or index == len(plan.readers) - 1
        if first is not None:  # so that it ends, and then the next is first
            assert first in everyone, "the first in rank was passed over"
            assert everyone[first] >= min(first.pending, self.share)

    def check_who_left(self, before: list[Sequence]) -> None:
        """Of those at work, the last in rank go first."""
        left = [sequence.rank for sequence in before if sequence.stage == "waiting"]
        stayed = [sequence.rank for sequence in before if sequence.stage != "waiting"]
        assert not left or not stayed or max(stayed) < min(left)

    def check(self) -> None:
        """Between two steps."""
        check_holders(self.cache, self.alive)
        queues = {stage: getattr(self.scheduler, stage) for stage in STAGES}
        for stage, queue in queues.items():
            assert all(sequence.stage == stage for sequence in queue)
            ranks = [sequence.rank for sequence in queue]
            assert ranks == sorted(set(ranks))
        there = [sequence for queue in queues.values() for sequence in queue]
        assert len(there) == len(self.alive)
        assert set(there) == set(self.alive)
        for sequence in self.scheduler.waiting:
            assert len(sequence.blocks) == sequence.computed == 0
        for sequence in self.scheduler.running:
            assert sequence.sound <= sequence.computed < len(sequence)
            assert sequence.computed <= sequence.room


STAGES = ("waiting", "reading", "writing", "landing", "paused")


def is_ready(sequence: Sequence) -> bool:
    if sequence.drawn - sequence.taken >= scheduling.MOST_AHEAD:
        return False
    leader = sequence.leader
    return leader is None or leader.drawn > 0 or leader.is_finished


def texts(kinds: int = 3, tokens: int = 40) -> Iterator[list[int]]:
    """A few texts that begin differently, to make prompts of."""
    for kind in range(kinds):
        yield [kind, *(crc32(bytes([kind, place])) % VOCABULARY for place in range(1, tokens))]
