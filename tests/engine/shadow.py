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
from cullama.engine.request import FinishReason, Request
from cullama.engine.runner import PassOutput
from cullama.engine.scheduler import Part, Plan, Scheduler
from cullama.engine.speculation import PromptLookup
from cullama.engine.steps import append_tokens
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
        self, cache: PrefixCache, sequence: Request, tokens: int, is_damaged: bool = False
    ) -> list[tuple[int, int]]:
        """What a pass keeps of so many tokens; returns the slots."""
        numbers = self.numbers(sequence.tokens + sequence.draft_tokens)
        written = []
        for position in range(sequence.computed, sequence.computed + tokens):
            index, offset = divmod(position, BLOCK_SIZE)
            block = sequence.blocks[index]
            assert cache.pool.ref_count(block) == 1, "no request writes to blocks that others read"
            assert offset >= listed_in(cache, block), (
                "no request writes to blocks that others may find"
            )
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


def open_blocks(cache: PrefixCache, request: Request, spare: int = 0) -> list[Copy] | None:
    """Allocate a request's blocks; returns the copies to make, or None where there is no room."""
    allocation = cache.allocate(request.tokens, request.max_computed, spare)
    if allocation is None:
        return None
    request.allocation, request.computed = allocation, allocation.cached_tokens
    request.verified = allocation.indexed * cache.block_size
    return [] if allocation.copy is None else [allocation.copy]


def close_blocks(cache: PrefixCache, request: Request) -> None:
    verified = request.verified if request.error is None else 0
    cache.free(request.allocation, request.tokens, verified)
    request.computed = request.verified = 0


def check_ref_counts(cache: PrefixCache, sequences: Iterable[Request]) -> None:
    """Whether each block is held by those sequences that have it, and all others by none."""
    pool = cache.pool
    ref_counts: Counter[int] = Counter()
    for sequence in sequences:
        assert len(set(sequence.blocks)) == len(sequence.blocks)
        assert sequence.allocation.capacity == len(sequence.blocks) * BLOCK_SIZE
        ref_counts.update(sequence.blocks)
    assert [pool.ref_count(block) for block in range(pool.count)] == [
        ref_counts[block] for block in range(pool.count)
    ]
    assert pool.referenced == len(ref_counts)
    assert min(pool.free, pool.cached) >= 0
    assert pool.free + pool.referenced + pool.cached == pool.count


def check_nothing_is_lost(cache: PrefixCache) -> None:
    """Whether all blocks can be had again, once nobody has any."""
    pool = cache.pool
    assert pool.referenced == 0
    assert pool.free + pool.cached == pool.count
    everything = pool.allocate(pool.count)
    assert sorted(everything or []) == list(range(pool.count))
    assert pool.cached == 0
    assert cache._root.children == {}, "what was given away can still be found"
    pool.release(everything or [])
    assert pool.free == pool.count


class Simulation:
    """The engine, with `Memory` in place of a model; it looks at every plan before it runs it."""

    def __init__(self, blocks: int, budget: int, max_running: int) -> None:
        self.metrics = Metrics()
        self.cache = PrefixCache(blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(self.cache, budget, max_running, self.metrics)
        self.memory = Memory(blocks)
        self.alive: list[Request] = []
        self.ill: set[Request] = set()  # their next token will not be a number
        self.lazy: set[Request] = set()  # nobody reads these unless asked to
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
    ) -> list[Request]:
        assert blocks_for(len(prompt) + max_tokens - 1) <= self.cache.pool.count, "not for us"
        params = SamplingParams(n=n, speculation=speculation)
        sequences: list[Request] = []
        for index in range(n):
            leader = sequences[0] if sequences else None
            sequences.append(
                Request(list(prompt), params, max_tokens, 0, frozenset(ends), index, leader)
            )
        for sequence in sequences:
            if speculation:
                sequence.lookup = PromptLookup(sequence.tokens)
            self.scheduler.add(sequence, priority)
        self.alive += sequences
        if is_lazy:
            self.lazy.update(sequences)
        return sequences

    def step(self, failing: Collection[Request] = ()) -> Plan:
        """One pass; with any that are `failing` in it, it is repeated one by one, without them."""
        first, had_work = self.first_in_order(), self.scheduler.has_work
        before = [*self.scheduler.decodes, *self.scheduler.prefills]
        plan = self.scheduler.schedule()
        self.check_who_left(before)
        assert bool(plan.parts) == had_work
        self.check_plan(plan, first)
        self.copies += len(plan.copies)
        self.passes.append(plan.tokens)  # guesses are gone afterwards
        taking_part = [sequence for sequence, *_ in plan.parts]
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

    def run(self, plan: Plan, failing: Collection[Request] = ()) -> None:
        """All are written before any is read, as in each layer of a model."""
        self.copy(plan)
        if any(sequence in failing for sequence, *_ in plan.parts):
            [(sequence, *_)] = plan.parts
            self.end(sequence, "error", RuntimeError("the pass went wrong"))
            return
        slots = [
            slot for sequence, tokens, _ in plan.parts for slot in self.write(sequence, tokens)
        ]
        assert len(set(slots)) == len(slots), "two write to the same slot"
        for sequence, tokens, _ in plan.parts:
            self.read(sequence, tokens)
        drawn = [self.draw(part) for part in plan.parts]
        outputs = [
            PassOutput(sequence, sequence.computed + tokens, sequence.draft_tokens, num_logits)
            for sequence, tokens, num_logits in plan.parts
        ]
        self.scheduler.launched(plan)
        for output, its_drawn in zip(outputs, drawn, strict=True):
            append_tokens(output, its_drawn)
            self.process(output)

    def break_down(self, plan: Plan) -> None:
        """A pass that goes wrong has copied, and left whatever it likes in its own slots."""
        self.copy(plan)
        for sequence, tokens, _ in plan.parts:
            self.memory.write(self.cache, sequence, tokens, is_damaged=True)

    def copy(self, plan: Plan) -> None:
        """Once: the sources may be written over by the very pass that comes next."""
        self.memory.copy(plan.copies)
        plan.copies.clear()

    def write(self, sequence: Request, tokens: int) -> list[tuple[int, int]]:
        everything = sequence.tokens + sequence.draft_tokens
        end = sequence.computed + tokens
        assert sequence.next_tokens(tokens) == everything[sequence.computed : end]
        return self.memory.write(self.cache, sequence, tokens, sequence in self.ill)

    def read(self, sequence: Request, tokens: int) -> None:
        if sequence not in self.ill:
            everything = sequence.tokens + sequence.draft_tokens
            self.memory.check(sequence.blocks, everything[: sequence.computed + tokens])

    def draw(self, part: Part) -> list[Drawn | NumericalError]:
        """What a pass gives a sequence: a token behind its newest one, and behind each guess."""
        sequence, tokens, num_logits = part
        assert num_logits == max(0, tokens - sequence.uncomputed + 1)
        drawn: list[Drawn | NumericalError] = []
        for guessed in range(num_logits):
            token = next_token(sequence.tokens + sequence.draft_tokens[:guessed])
            is_ill = sequence in self.ill
            drawn.append(NumericalError("not a number") if is_ill else Drawn(token, None))
        return drawn

    def process(self, output: PassOutput) -> None:
        """What the engine does with the tokens of a pass."""
        sequence = output.request
        if not output.appended and output.error is None:
            return
        if output.error is not None:
            self.end(sequence, "error", output.error)
            return
        drafts, accepted = len(output.draft_tokens), output.appended - 1
        if sequence.lookup is not None:
            sequence.lookup.learn(drafts, accepted)
            self.metrics.draft_tokens += drafts
            self.metrics.accepted_tokens += accepted
        self.scheduler.verify(sequence, output.computed - drafts + accepted)
        if sequence.is_finished:
            self.leave(sequence)
        elif sequence.drawn - sequence.delivered >= scheduling.MAX_AHEAD:
            self.scheduler.pause(sequence)

    def take(self, sequence: Request) -> None:
        was_ahead = sequence.drawn - sequence.delivered >= scheduling.MAX_AHEAD
        sequence.delivered = sequence.drawn
        if was_ahead:
            self.scheduler.resume(sequence)

    def cancel(self, sequence: Request) -> None:
        """Anyone, at any time, as often as one likes."""
        if sequence.is_finished:
            self.scheduler.remove(sequence)
        else:
            self.end(sequence, "cancelled")

    def end(self, sequence: Request, reason: FinishReason, error: Exception | None = None) -> None:
        sequence.finish(reason, error)
        self.leave(sequence)

    def leave(self, sequence: Request) -> None:
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
        return self.scheduler.token_budget - self.scheduler.max_running

    def longest_turn(self, sequence: Request) -> int:
        """Steps that a sequence needs at most while it is the first in order."""
        return -(-sequence.max_computed // self.share) + sequence.max_tokens

    def first_in_order(self) -> Request | None:
        """Of those that could go on, if they were let."""
        ready = [s for s in self.alive if s.stage != "backpressured" and is_ready(s)]
        return min(ready, key=lambda sequence: sequence.priority_key, default=None)

    def check_plan(self, plan: Plan, first: Request | None) -> None:
        everyone = {sequence: tokens for sequence, tokens, _ in plan.parts}
        assert len(everyone) == len(plan.parts), "no request takes part twice"
        assert sum(everyone.values()) == plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.max_running
        for sequence, tokens in everyone.items():
            assert sequence.computed + tokens <= sequence.allocation.capacity
        for writer in plan.decodes:
            assert (writer.stage, writer.uncomputed) == ("decode", 1)
            assert everyone[writer] == 1 + len(writer.draft_tokens)
            assert len(writer.draft_tokens) <= writer.params.speculation
            assert writer.drawn + everyone[writer] <= writer.max_tokens
        for index, (reader, tokens, _) in enumerate(plan.prefills):
            assert reader.stage == "prefill"
            assert 1 <= tokens <= reader.uncomputed
            assert tokens == reader.uncomputed or index == len(plan.prefills) - 1
        if first is not None:  # so that it ends, and then the next is first
            assert first in everyone, "the first in order was passed over"
            assert everyone[first] >= min(first.uncomputed, self.share)

    def check_who_left(self, before: list[Request]) -> None:
        """Of those at work, the last in rank go first."""
        left = [sequence.priority_key for sequence in before if sequence.stage == "waiting"]
        stayed = [sequence.priority_key for sequence in before if sequence.stage != "waiting"]
        assert not left or not stayed or max(stayed) < min(left)

    def check(self) -> None:
        """Between two steps."""
        check_ref_counts(self.cache, self.alive)
        queues = self.scheduler._queues
        for stage, queue in queues.items():
            assert all(sequence.stage == stage for sequence in queue)
            ranks = [sequence.priority_key for sequence in queue]
            assert ranks == sorted(set(ranks))
        there = [sequence for queue in queues.values() for sequence in queue]
        assert len(there) == len(self.alive)
        assert set(there) == set(self.alive)
        for sequence in self.scheduler.waiting:
            assert len(sequence.blocks) == sequence.computed == 0
        for sequence in self.scheduler.running:
            assert sequence.verified <= sequence.computed < len(sequence)
            assert sequence.computed <= sequence.allocation.capacity


def is_ready(sequence: Request) -> bool:
    if sequence.drawn - sequence.delivered >= scheduling.MAX_AHEAD:
        return False
    leader = sequence.leader
    return leader is None or leader.drawn > 0 or leader.is_finished


def texts(kinds: int = 3, tokens: int = 40) -> Iterator[list[int]]:
    """A few texts that begin differently, to make prompts of."""
    for kind in range(kinds):
        yield [kind, *(crc32(bytes([kind, place])) % VOCABULARY for place in range(1, tokens))]
