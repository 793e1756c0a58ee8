"""Decides which requests take part in the next pass, with how many tokens. Integers only.

Iteration-level scheduling (Yu et al., "Orca", OSDI 2022): a request joins and leaves between any
two passes. Each decode takes part with one token (and its draft tokens); what is left of the token
budget goes to prefills, some of the prompt at a time (chunked prefill: Agrawal et al.,
"Sarathi-Serve", OSDI 2024), so that a long prompt stalls no decode.

Everything scarce goes by priority key, which is the order of arrival; a priority of 1 counts as 64
places earlier (HEAD_START). Where blocks run out, backpressured requests are preempted, then those
behind in order. They come back later: what they had computed is computed again, except what the
prefix cache still holds. Apart from requests that wait for their reader, and samples that wait for
the prefill of their first one, the first in order is never passed over: it finishes, and then the
next is first, so no request starves. It builds no batch and draws no token.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from operator import attrgetter
from typing import TypeAlias

from .metrics import Metrics
from .prefix_cache import Copy, PrefixCache
from .request import Request, Stage

HEAD_START = 64  # places in the queue that one step of priority is worth

# With more decodes in a pass, a row more costs what it saves: tokens that a grammar forces are then
# drafts only of requests that ask for speculation.
MAX_FORCED_DECODES = 4

# Tokens drawn and not yet read; a request with more of them is backpressured.
MAX_AHEAD = 1024

# A request, how many of its tokens take part, and behind how many of them a token is drawn.
Part: TypeAlias = tuple[Request, int, int]

_priority_key = attrgetter("priority_key")


class Plan:
    """One pass of the model.

    Attributes:
        decodes: take part with their newest token, and their draft tokens.
        prefills: take part with some of their prompt.
        copies: to be made before the pass, in order; then emptied.
        parts: all of them, decodes first.
    """

    def __init__(
        self,
        decodes: list[Request],
        prefills: list[Part],
        copies: list[Copy],
        has_drafts: bool = False,
    ) -> None:
        self.decodes, self.prefills, self.copies = decodes, prefills, copies
        self.has_drafts = has_drafts  # whether any decode has draft tokens
        counts: Iterable[int] = repeat(1)
        if has_drafts:
            counts = [1 + len(request.draft_tokens) for request in decodes]
        self.parts: list[Part] = [*zip(decodes, counts, counts, strict=False), *prefills]

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens, _ in self.parts)

    def one_by_one(self) -> Iterator[Plan]:
        """Split into a plan for each request; the first of them to run makes the copies."""
        for request in self.decodes:
            yield Plan([request], [], self.copies, self.has_drafts)
        for part in self.prefills:
            yield Plan([], [part], self.copies)


class Scheduler:
    def __init__(
        self,
        cache: PrefixCache,
        token_budget: int,
        max_running: int,
        metrics: Metrics | None = None,
    ) -> None:
        assert max_running < token_budget, "decodes would leave nothing of the budget to prefills"
        self.cache, self.metrics = cache, metrics or Metrics()
        self.token_budget, self.max_running = token_budget, max_running
        self.logits_budget = token_budget  # rows of logits a pass, for prompts that are scored
        # Each in order of priority key; all but those waiting hold blocks.
        self.waiting: list[Request] = []
        self.prefills: list[Request] = []
        self.decodes: list[Request] = []
        self.finishing: list[Request] = []  # their last token is in flight
        self.backpressured: list[Request] = []  # too many unread tokens
        self._queues: dict[Stage, list[Request]] = {
            "waiting": self.waiting,
            "prefill": self.prefills,
            "decode": self.decodes,
            "finishing": self.finishing,
            "backpressured": self.backpressured,
        }
        # What admitted requests need copied. They stay here until a pass has begun: one that is cut
        # short before that leaves them to the next.
        self.copies: list[Copy] = []
        self._arrivals = count()

    @property
    def is_speculating(self) -> bool:
        """Whether any decode may have draft tokens, which need its newest token."""
        return any(map(self._may_have_drafts, self.decodes))

    @property
    def has_work(self) -> bool:
        return bool(self.prefills or self.decodes) or any(map(_is_ready, self.waiting))

    @property
    def running(self) -> list[Request]:
        """All that hold blocks."""
        return [*self.decodes, *self.prefills, *self.finishing, *self.backpressured]

    @property
    def num_running(self) -> int:
        return sum(map(len, (self.decodes, self.prefills, self.finishing, self.backpressured)))

    # --- a pass --------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Plan the next pass; never more tokens than the budget."""
        drafts = self._propose_drafts()
        without_blocks = self._grow_decodes(has_drafts=drafts > 0)
        if self.waiting:
            self._admit(self.token_budget - len(self.decodes) - drafts)
        decodes = self.decodes[:]
        if without_blocks:
            decodes = [request for request in decodes if request not in without_blocks]
        prefills = self._plan_prefills(self.token_budget - len(decodes) - drafts)
        return Plan(decodes, prefills, self.copies, drafts > 0)

    def _plan_prefills(self, budget: int) -> list[Part]:
        """Share the tokens left in order, and the rows of logits among prompts that are scored."""
        rows = self.logits_budget
        prefills: list[Part] = []
        for request in self.prefills:
            if budget <= 0:
                break
            tokens = min(request.uncomputed, budget)
            if request.unscored is not None:
                tokens -= max(0, request.num_logits(tokens) - rows)
                rows -= request.num_logits(tokens)
                if tokens == 0:
                    continue
            prefills.append((request, tokens, request.num_logits(tokens)))
            budget -= tokens
        return prefills

    def mark_launched(self, plan: Plan) -> None:
        """Count the plan's tokens as computed: a pass over it is pending."""
        for request, tokens, _ in plan.parts:
            request.computed += tokens - len(request.draft_tokens)
            length = len(request.tokens)
            if request.computed < length - (request.max_tokens == 0):
                continue
            if request.max_tokens == 0:
                self._move(request, "finishing")
                continue
            request.in_flight = 1
            is_last = length + 1 >= request.prompt_length + request.max_tokens
            if is_last and not request.draft_tokens:
                self._move(request, "finishing")
            elif request.stage == "prefill":
                self._move(request, "decode")

    def roll_back(self, plan: Plan) -> None:
        """Undo `mark_launched`: the pass has failed, and is to be done again."""
        for request, tokens, _ in plan.parts:
            request.in_flight = 0
            if not request.allocation.blocks:  # preempted meanwhile: it begins again anyway
                continue
            request.computed -= tokens - len(request.draft_tokens)
            if request.stage in ("decode", "finishing"):
                is_decode = request.uncomputed == 1 and request.max_tokens > 0
                self._move(request, "decode" if is_decode else "prefill")

    def mark_shareable(self, request: Request, tokens: int) -> None:
        """So many of its tokens led to a token drawn: others may now share its prompt's blocks."""
        if not request.allocation.blocks or tokens > request.computed:  # preempted meanwhile
            return
        is_first = request.shareable < request.prompt_length
        request.shareable = max(request.shareable, tokens)
        if is_first:
            self.cache.index(request.allocation, request.tokens, request.shareable)

    # --- in and out ----------------------------------------------------------------------------

    def add(self, request: Request, priority: int = 0) -> None:
        arrival = next(self._arrivals)
        request.priority_key = (arrival - priority * HEAD_START, arrival)
        self._move(request, "waiting")

    def pause(self, request: Request) -> None:
        """Leave a request out of passes until its tokens have been read.

        One that was preempted while its token was in flight waits already, and has no blocks.
        """
        if request.allocation.blocks:
            self._move(request, "backpressured")

    def resume(self, request: Request) -> None:
        if request.stage == "backpressured":
            self._move(request, "decode")

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is, and its blocks back."""
        if request.stage == "unscheduled":
            return
        self._move(request, "unscheduled")
        shareable = request.shareable if request.error is None else 0
        self.cache.free(request.allocation, request.tokens, shareable)
        request.computed = request.shareable = 0

    def _move(self, request: Request, stage: Stage) -> None:
        if request.stage != "unscheduled":
            self._queues[request.stage].remove(request)
        request.stage = stage
        if stage != "unscheduled":
            insort(self._queues[stage], request, key=_priority_key)

    # --- what a pass has room for --------------------------------------------------------------

    def _may_have_drafts(self, request: Request) -> bool:
        """Whether draft tokens may be proposed: they are asked for, or forced by a grammar."""
        is_forced = request.matcher is not None and len(self.decodes) <= MAX_FORCED_DECODES
        return request.lookup is not None or is_forced

    def _propose_drafts(self) -> int:
        """Propose draft tokens where a pass has room that no prompt needs; returns how many."""
        drafts = 0
        for request in self.decodes:
            if not self._may_have_drafts(request):
                continue
            room = 0
            if not self.prefills and not self.waiting:
                room = self.token_budget // len(self.decodes) - 1
            most = min(room, request.max_tokens - request.drawn - 1)
            request.draft_tokens = request.propose(most) if most > 0 else []
            drafts += len(request.draft_tokens)
        return drafts

    def _grow_decodes(self, has_drafts: bool) -> set[Request]:
        """Allocate blocks for the decodes' next tokens, preempting requests behind them.

        Returns those that found none and sit this pass out.
        """
        without_blocks: set[Request] = set()
        full = [r for r in self.decodes if r.computed >= r.allocation.capacity]
        if has_drafts:
            full = [
                r for r in self.decodes if r.computed + len(r.draft_tokens) >= r.allocation.capacity
            ]
        for request in full:
            while request.allocation.blocks:  # one before it may have preempted it
                tokens = request.computed + 1 + len(request.draft_tokens)
                if self.cache.grow(request.allocation, tokens):
                    break
                if request.draft_tokens:
                    request.draft_tokens = []
                elif not self._preempt_for(request):
                    without_blocks.add(request)
                    break
        return without_blocks

    def _admit(self, budget: int) -> None:
        """Admit waiting requests as far as places, blocks and tokens go.

        In order: a large request is not overtaken for ever by small ones, and none waits for
        tokens that go to prefills behind it.
        """
        for request in filter(_is_ready, self.waiting[:]):
            before = sum(
                other.uncomputed
                for other in self.prefills
                if other.priority_key < request.priority_key
            )
            if before >= budget or not self._allocate(request):
                return
            if not request.was_admitted:
                request.was_admitted, request.cached_tokens = True, request.computed
                self.metrics.prompt_tokens += len(request.tokens)
                self.metrics.cached_tokens += request.cached_tokens
            self._move(request, "prefill")

    def _allocate(self, request: Request) -> bool:
        """Give a request a place and blocks, preempting those behind it; False if there are none.

        One spare block for each running request stays free: one that is admitted should not have
        to leave in the next pass.
        """
        while True:
            if self.num_running < self.max_running:
                allocation = self.cache.allocate(
                    request.inputs, request.max_computed, self.num_running, request.unscored
                )
                if allocation is not None:
                    break
            if not self._preempt_for(request):
                return False
        request.allocation = allocation
        request.computed = allocation.cached_tokens
        request.shareable = allocation.indexed * self.cache.block_size
        if allocation.copy is not None:
            self.copies.append(allocation.copy)
        return True

    def _preempt_for(self, request: Request) -> bool:
        """Preempt the last backpressured request, whatever its place; else the last one behind.

        False where there is none. What is preempted is computed again (Kwon et al., SOSP 2023).
        """
        queues = [self.backpressured] if self.backpressured else [self.decodes, self.prefills]
        last = max((queue[-1] for queue in queues if queue), key=_priority_key, default=request)
        is_ahead = last.priority_key < request.priority_key and not self.backpressured
        if last is request or is_ahead:
            return False
        self.remove(last)
        last.draft_tokens = []
        self._move(last, "waiting")
        self.metrics.preemptions += 1
        return True


def is_far_ahead(request: Request) -> bool:
    """Whether a request has so many unread tokens that it should pause."""
    unread = len(request.tokens) - request.prompt_length - request.delivered
    return unread >= (1 if request.is_held else MAX_AHEAD)


def _is_ready(request: Request) -> bool:
    """Whether a waiting request may be admitted.

    It has few unread tokens, none in flight, and no other sample is computing its prompt.
    """
    leader = request.leader
    return (
        not is_far_ahead(request)
        and not request.in_flight
        and (leader is None or leader.drawn > leader.begun or leader.is_finished)
    )
