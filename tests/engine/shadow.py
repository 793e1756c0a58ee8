"""A cache that remembers for which text each of its slots was computed, and a model that reads it.

Scheduler and prefix cache run against this as they do in the engine, and each read of a slot
checks that it holds what it should. The next token follows from all tokens before it, so
each text can also be written alone, without any of the machinery: that is what it must equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from zlib import crc32

from cullama.engine import scheduler as scheduling
from cullama.engine.core import append_tokens
from cullama.engine.metrics import Metrics
from cullama.engine.prefix_cache import Copy, PrefixCache
from cullama.engine.request import FinishReason, Request
from cullama.engine.runner import PassOutput
from cullama.engine.scheduler import Part, Plan, Scheduler
from cullama.engine.speculation import PromptLookup
from cullama.errors import NumericalError
from cullama.sampling.draw import Drawn
from cullama.sampling.params import SamplingParams

BLOCK_SIZE = 4
VOCABULARY = 5
NOTHING, DAMAGED = -1, -2  # what a slot holds that no text was computed for


def next_token(tokens: list[int]) -> int:
    """Repeats itself often enough for some drafts to be right, and not for all."""
    seen = tokens if len(tokens) % 7 == 0 else tokens[-2:]
    return crc32(bytes(seen)) % VOCABULARY


def written_alone(prompt: list[int], max_tokens: int, ends: Collection[int] = ()) -> list[int]:
    """The answer that a request gets which has the machine for itself."""
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
        self, cache: PrefixCache, request: Request, tokens: int, is_damaged: bool = False
    ) -> list[tuple[int, int]]:
        """What a pass keeps of so many tokens; returns the slots."""
        numbers = self.numbers(request.tokens + request.draft_tokens)
        written = []
        for position in range(request.computed, request.computed + tokens):
            index, offset = divmod(position, BLOCK_SIZE)
            block = request.blocks[index]
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
    request.shareable = allocation.indexed * cache.block_size
    return [] if allocation.copy is None else [allocation.copy]


def close_blocks(cache: PrefixCache, request: Request) -> None:
    shareable = request.shareable if request.error is None else 0
    cache.free(request.allocation, request.tokens, shareable)
    request.computed = request.shareable = 0


def check_ref_counts(cache: PrefixCache, requests: Iterable[Request]) -> None:
    """Whether each block is held by those requests that have it, and all others by none."""
    pool = cache.pool
    ref_counts: Counter[int] = Counter()
    for request in requests:
        assert len(set(request.blocks)) == len(request.blocks)
        assert request.allocation.capacity == len(request.blocks) * BLOCK_SIZE
        ref_counts.update(request.blocks)
    assert [pool.ref_count(block) for block in range(pool.count)] == [
        ref_counts[block] for block in range(pool.count)
    ]
    assert pool.referenced == len(ref_counts)
    assert min(pool.free, pool.cached) >= 0
    assert pool.free + pool.referenced + pool.cached == pool.count


def check_nothing_is_lost(cache: PrefixCache) -> None:
    """Whether all blocks can be allocated again, once no request has any."""
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
        self.lazy: set[Request] = set()  # these are read only when a test asks for it
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
        requests: list[Request] = []
        for index in range(n):
            leader = requests[0] if requests else None
            requests.append(
                Request(list(prompt), params, max_tokens, 0, frozenset(ends), index, leader)
            )
        for request in requests:
            if speculation:
                request.lookup = PromptLookup(request.tokens)
            self.scheduler.add(request, priority)
        self.alive += requests
        if is_lazy:
            self.lazy.update(requests)
        return requests

    def step(self, failing: Collection[Request] = ()) -> Plan:
        """One pass; with any that are `failing` in it, it is repeated one by one, without them."""
        first, had_work = self.first_in_order(), self.scheduler.has_work
        before = [*self.scheduler.decodes, *self.scheduler.prefills]
        plan = self.scheduler.schedule()
        self.check_who_left(before)
        assert bool(plan.parts) == had_work
        self.check_plan(plan, first)
        self.copies += len(plan.copies)
        self.passes.append(plan.tokens)  # drafts are gone afterwards
        taking_part = [request for request, *_ in plan.parts]
        if any(request in failing for request in taking_part):
            self.break_down(plan)
            for each in plan.one_by_one():
                self.run(each, failing)
        else:
            self.run(plan)
        self.steps += 1
        for request in taking_part:
            if request not in self.lazy:
                self.take(request)
        return plan

    def run(self, plan: Plan, failing: Collection[Request] = ()) -> None:
        """All are written before any is read, as in each layer of a model."""
        self.copy(plan)
        if any(request in failing for request, *_ in plan.parts):
            [(request, *_)] = plan.parts
            self.end(request, "error", RuntimeError("the pass went wrong"))
            return
        slots = [slot for request, tokens, _ in plan.parts for slot in self.write(request, tokens)]
        assert len(set(slots)) == len(slots), "two write to the same slot"
        for request, tokens, _ in plan.parts:
            self.read(request, tokens)
        drawn = [self.draw(part) for part in plan.parts]
        outputs = [
            PassOutput(request, request.computed + tokens, request.draft_tokens, num_logits)
            for request, tokens, num_logits in plan.parts
        ]
        self.scheduler.mark_launched(plan)
        for output, its_drawn in zip(outputs, drawn, strict=True):
            append_tokens(output, its_drawn)
            self.process(output)

    def break_down(self, plan: Plan) -> None:
        """A pass that goes wrong has copied, and left whatever it likes in its own slots."""
        self.copy(plan)
        for request, tokens, _ in plan.parts:
            self.memory.write(self.cache, request, tokens, is_damaged=True)

    def copy(self, plan: Plan) -> None:
        """Once: the sources may be written over by the very pass that comes next."""
        self.memory.copy(plan.copies)
        plan.copies.clear()

    def write(self, request: Request, tokens: int) -> list[tuple[int, int]]:
        everything = request.tokens + request.draft_tokens
        end = request.computed + tokens
        assert request.next_tokens(tokens) == everything[request.computed : end]
        return self.memory.write(self.cache, request, tokens, request in self.ill)

    def read(self, request: Request, tokens: int) -> None:
        if request not in self.ill:
            everything = request.tokens + request.draft_tokens
            self.memory.check(request.blocks, everything[: request.computed + tokens])

    def draw(self, part: Part) -> list[Drawn | NumericalError]:
        """What a pass gives a request: a token behind its newest one, and behind each draft."""
        request, tokens, num_logits = part
        assert num_logits == max(0, tokens - request.uncomputed + 1)
        drawn: list[Drawn | NumericalError] = []
        for drafts in range(num_logits):
            token = next_token(request.tokens + request.draft_tokens[:drafts])
            is_ill = request in self.ill
            drawn.append(NumericalError("not a number") if is_ill else Drawn(token, None))
        return drawn

    def process(self, output: PassOutput) -> None:
        """What the engine does with the tokens of a pass."""
        request = output.request
        if not output.appended and output.error is None:
            return
        if output.error is not None:
            self.end(request, "error", output.error)
            return
        drafts, accepted = len(output.draft_tokens), output.appended - 1
        if request.lookup is not None:
            request.lookup.learn(drafts, accepted)
            self.metrics.draft_tokens += drafts
            self.metrics.accepted_tokens += accepted
        self.scheduler.mark_shareable(request, output.computed - drafts + accepted)
        if request.is_finished:
            self.leave(request)
        elif request.drawn - request.delivered >= scheduling.MAX_AHEAD:
            self.scheduler.pause(request)

    def take(self, request: Request) -> None:
        was_ahead = request.drawn - request.delivered >= scheduling.MAX_AHEAD
        request.delivered = request.drawn
        if was_ahead:
            self.scheduler.resume(request)

    def cancel(self, request: Request) -> None:
        """Anyone, at any time, as often as one likes."""
        if request.is_finished:
            self.scheduler.remove(request)
        else:
            self.end(request, "cancelled")

    def end(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        request.finish(reason, error)
        self.leave(request)

    def leave(self, request: Request) -> None:
        self.scheduler.remove(request)
        self.alive.remove(request)
        answer = written_alone(request.prompt, request.max_tokens, request.end_ids)
        if request.finish_reason in ("stop", "length"):
            assert request.answer == answer, "not what it would have written alone"
        else:
            assert request.answer == answer[: request.drawn]

    def finish(self) -> None:
        """Step until all have finished, in no more steps than one by one would take."""
        left = sum(self.longest_turn(request) for request in self.alive)
        for _ in range(left):
            for request in list(self.alive):
                self.take(request)
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

    def longest_turn(self, request: Request) -> int:
        """Steps that a request needs at most while it is the first in order."""
        return -(-request.max_computed // self.share) + request.max_tokens

    def first_in_order(self) -> Request | None:
        """Of those that could go on, if they were let."""
        ready = [s for s in self.alive if s.stage != "backpressured" and is_ready(s)]
        return min(ready, key=lambda request: request.priority_key, default=None)

    def check_plan(self, plan: Plan, first: Request | None) -> None:
        everyone = {request: tokens for request, tokens, _ in plan.parts}
        assert len(everyone) == len(plan.parts), "no request takes part twice"
        assert sum(everyone.values()) == plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.max_running
        for request, tokens in everyone.items():
            assert request.computed + tokens <= request.allocation.capacity
        for decode in plan.decodes:
            assert (decode.stage, decode.uncomputed) == ("decode", 1)
            assert everyone[decode] == 1 + len(decode.draft_tokens)
            assert len(decode.draft_tokens) <= decode.params.speculation
            assert decode.drawn + everyone[decode] <= decode.max_tokens
        for index, (prefill, tokens, _) in enumerate(plan.prefills):
            assert prefill.stage == "prefill"
            assert 1 <= tokens <= prefill.uncomputed
            assert tokens == prefill.uncomputed or index == len(plan.prefills) - 1
        if first is not None:  # so that it ends, and then the next is first
            assert first in everyone, "the first in order was passed over"
            assert everyone[first] >= min(first.uncomputed, self.share)

    def check_who_left(self, before: list[Request]) -> None:
        """Of the running requests, the last in order are preempted first."""
        left = [request.priority_key for request in before if request.stage == "waiting"]
        stayed = [request.priority_key for request in before if request.stage != "waiting"]
        assert not left or not stayed or max(stayed) < min(left)

    def check(self) -> None:
        """Between two steps."""
        check_ref_counts(self.cache, self.alive)
        queues = self.scheduler._queues
        for stage, queue in queues.items():
            assert all(request.stage == stage for request in queue)
            ranks = [request.priority_key for request in queue]
            assert ranks == sorted(set(ranks))
        there = [request for queue in queues.values() for request in queue]
        assert len(there) == len(self.alive)
        assert set(there) == set(self.alive)
        for request in self.scheduler.waiting:
            assert len(request.blocks) == request.computed == 0
        for request in self.scheduler.running:
            assert request.shareable <= request.computed < len(request)
            assert request.computed <= request.allocation.capacity


def is_ready(request: Request) -> bool:
    if request.drawn - request.delivered >= scheduling.MAX_AHEAD:
        return False
    leader = request.leader
    return leader is None or leader.drawn > 0 or leader.is_finished


def texts(kinds: int = 3, tokens: int = 40) -> Iterator[list[int]]:
    """A few texts that begin differently, to make prompts of."""
    for kind in range(kinds):
        yield [kind, *(crc32(bytes([kind, place])) % VOCABULARY for place in range(1, tokens))]
