"""Keeps the state of one request: its tokens, how many are computed, and where its blocks are.

Integers only: no arrays, no model. A request with n samples is n of these. One whose `computed` is
smaller than its length has tokens for the model to compute; a prompt and a single new token differ
in nothing but how many. Who may run when is the scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ConstraintError
from ..sampling.draw import Draw, Drawn
from ..sampling.params import SamplingParams, TokenLogprobs
from ..sampling.philox import fresh_seed
from .matcher import Matcher
from .prefix_cache import Allocation
from .prompt_logprobs import PromptLogprobs
from .speculation import PromptLookup

FinishReason = Literal["stop", "length", "cancelled", "error"]
Stage = Literal["unscheduled", "waiting", "prefill", "decode", "finishing", "backpressured"]


@dataclass(eq=False)
class Request:
    tokens: list[int]  # the prompt, and an answer's beginning; what is drawn comes behind it
    params: SamplingParams
    max_tokens: int  # of the whole answer
    seed: int
    end_ids: frozenset[int]  # tokens that end it
    index: int = 0  # which of the n samples
    leader: Request | None = None  # the first sample: the others wait for its prefill
    lookup: PromptLookup | None = None  # proposes draft tokens, where speculation was asked for
    matcher: Matcher | None = None  # its place in the grammar that it has to follow
    prompt_logprobs: PromptLogprobs | None = None  # of an answer's beginning, too; if asked for
    begun: int = 0  # tokens of the answer that were there before
    on_change: Callable[[], None] | None = None  # called after new tokens, and at the end

    # How it goes
    stage: Stage = "unscheduled"  # which of the scheduler's queues it is in
    priority_key: tuple[int, int] = (0, 0)  # the lower goes first
    was_admitted: bool = False  # at least once; it may have been preempted since
    draft_tokens: list[int] = field(default_factory=list)  # proposed behind the newest token
    in_flight: int = 0  # tokens that a pending pass will draw
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    delivered: int = 0  # tokens of the completion that were read from outside
    is_held: bool = False  # its reader has enough: it pauses as soon as one token is unread
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    # Its keys and values
    allocation: Allocation = field(default_factory=Allocation)
    computed: int = 0  # tokens whose keys and values are in the cache, or will be by a pending pass
    shareable: int = 0  # of those, how many led to a token drawn
    cached_tokens: int = 0  # prompt tokens found in the prefix cache when first admitted

    def __post_init__(self) -> None:
        self.given_length = len(self.tokens)  # of the prompt, and of an answer's beginning
        self.prompt_length = self.given_length - self.begun
        self.delivered = self.begun

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prompt(self) -> list[int]:
        return self.tokens[: self.prompt_length]

    @property
    def answer(self) -> list[int]:
        """The tokens of the completion."""
        return self.tokens[self.prompt_length :]

    @property
    def drawn(self) -> int:
        """How many tokens the completion has."""
        return len(self.tokens) - self.prompt_length

    @property
    def inputs(self) -> list[int]:
        """The tokens that go through the model: all, but for the last of a prompt only scored."""
        return self.tokens if self.max_tokens else self.tokens[:-1]

    @property
    def uncomputed(self) -> int:
        """Tokens that the model has yet to compute, one that is in flight included."""
        return len(self.tokens) - (self.max_tokens == 0) + self.in_flight - self.computed

    @property
    def unscored(self) -> int | None:
        """The first position of the prompt whose log-probability is asked for and not known."""
        asked = self.prompt_logprobs
        return None if asked is None or asked.is_complete else asked.next

    @property
    def max_computed(self) -> int:
        """Most tokens the cache may have to hold; the last one drawn is never fed back."""
        return self.prompt_length + self.max_tokens - 1

    @property
    def blocks(self) -> list[int]:
        return list(self.allocation.blocks)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def next_tokens(self, count: int) -> list[int]:
        """Return the first `count` uncomputed tokens, draft tokens at the end.

        One that is in flight is filled in later; the newest stands in for it.
        """
        if self.in_flight:
            return self.tokens[-1:]
        tokens = self.tokens[self.computed : self.computed + count]
        return tokens + self.draft_tokens[: count - len(tokens)]

    def propose(self, most: int) -> list[int]:
        """Return up to `most` draft tokens: those that its grammar forces, or else those that
        followed where its text was the same."""
        forced = [] if self.matcher is None else self.matcher.forced()[:most]
        if forced or self.lookup is None:
            return forced
        drafts = self.lookup.propose(min(most, self.params.speculation))
        return drafts if self.matcher is None else self.matcher.fitting(drafts)

    def num_logits(self, count: int) -> int:
        """Return behind how many of the next `count` tokens of a prefill logits are needed: behind
        its last token, and behind those that predict a token to be scored."""
        if self.unscored is None:
            return int(count == self.uncomputed)
        return max(0, self.computed + count - max(self.computed, self.unscored - 1))

    def score(self, position: int) -> Draw:
        """Describe how a token of the prompt is scored."""
        given = self.tokens[position]
        return Draw(self.params, self.seed, self.index, self.tokens, self.prompt_length, given)

    def draw(self, accepted: int = 0, mask: bytes | None = None) -> Draw:
        """Describe how the token behind so many accepted draft tokens is drawn."""
        tokens = self.tokens + self.draft_tokens[:accepted] if accepted else self.tokens
        return Draw(self.params, self.seed, self.index, tokens, self.prompt_length, mask=mask)

    def draws(self, count: int) -> list[Draw]:
        """Describe how the next token is drawn, and those behind 1, 2 … accepted draft tokens.

        Raises:
            ConstraintError: its grammar cannot be followed from here.
        """
        masks: list[bytes | None] = [None] * count
        if self.matcher is not None and count and not self.is_finished:
            masks = self.matcher.masks(self.draft_tokens)
        return [self.draw(accepted, mask) for accepted, mask in enumerate(masks)]

    def append(self, drawn: Drawn) -> None:
        """Add a new token, and finish where it is the last."""
        if drawn.logprobs is not None:
            self.logprobs.append(drawn.logprobs)  # before its token: another thread may read both
        self.tokens.append(drawn.token)
        if drawn.token in self.end_ids:
            self.finish("stop")
        elif self.matcher is not None and self._follow(self.matcher, drawn.token):
            return
        elif len(self.tokens) - self.prompt_length >= self.max_tokens:
            self.finish("length")

    def _follow(self, matcher: Matcher, token: int) -> bool:
        """Go on in the grammar; finishes where it is complete, or cannot be followed."""
        try:
            matcher.append([token])
        except ConstraintError as error:
            self.finish("error", error)
        else:
            if matcher.is_complete:
                self.finish("stop")
        return self.is_finished

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        assert self.finish_reason is None, "a request finishes once"
        self.error, self.finish_reason = error, reason


def make_requests(
    tokens: Sequence[int],
    params: SamplingParams,
    max_tokens: int,
    eos_ids: Sequence[int],
    logprobs_start: int = 1,
    begun: int = 0,
    new_matcher: Callable[[frozenset[int]], Matcher] | None = None,
) -> list[Request]:
    """Return one request for each of the n samples, all with the same seed.

    The last `begun` of the tokens are an answer's first; `max_tokens` more may follow. A new
    matcher is given the tokens that end a sample.

    Raises:
        ConstraintError: the answer's first tokens do not fit the matcher's grammar.
    """
    seed = fresh_seed() if params.seed is None else params.seed
    end_ids = frozenset(() if params.ignore_eos else eos_ids) | set(params.stop_token_ids)
    scored = None
    if params.prompt_logprobs is not None:
        scored = PromptLogprobs(len(tokens), logprobs_start)
    requests: list[Request] = []
    for index in range(params.n):
        leader = requests[0] if requests else None
        most = begun + max_tokens
        request = Request(list(tokens), params, most, seed, end_ids, index, leader, begun=begun)
        request.prompt_logprobs = scored
        if params.speculation:
            request.lookup = PromptLookup(request.tokens)
        if max_tokens == 0 and request.unscored is None:  # nothing to compute
            request.finish("length")
        elif new_matcher is not None:
            request.matcher = new_matcher(end_ids)
            request.matcher.append(request.answer)
            if request.matcher.is_complete:  # by its first tokens
                request.finish("stop")
        requests.append(request)
    return requests
