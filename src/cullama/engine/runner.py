"""Builds the batch of a plan, and runs it: the only caller of the model.

It does not decide which requests take part, nor when one finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import NumericalError
from ..files.tensor import HostArray
from ..model.batch import Batch, Chunk, build_batch, build_large_batch
from ..model.kv_cache import KVCache
from ..model.llama import Llama
from ..sampling.draw import Draw, Drawn
from .prefix_cache import Copy
from .request import Request
from .scheduler import Plan

Array = TypeVar("Array")

FEW_REQUESTS = 12  # up to so many, a batch is built faster without numpy


@dataclass
class PassOutput:
    """What a pass gives one request."""

    request: Request
    computed: int  # its tokens whose keys and values are in the cache, draft tokens included
    draft_tokens: list[int]
    num_logits: int  # tokens that are scored or drawn
    appended: int = 0  # of those, how many are the request's
    error: NumericalError | None = None  # in place of the next one

    @property
    def first_scored(self) -> int:
        """The position of the first token that the logits score, if they score any."""
        return self.computed - self.num_logits + 1

    @property
    def num_scored(self) -> int:
        """How many of the logits, the first ones, are for tokens that were given."""
        return max(0, min(self.num_logits, self.request.given_length - self.first_scored))


class PendingPass(NamedTuple):
    """A pass that has begun."""

    plan: Plan
    outputs: list[PassOutput]
    read: Callable[[], list[Drawn | NumericalError]]  # waits; the tokens of all outputs, in order


class Runner(Generic[Array]):
    def __init__(self, model: Llama[Array, Any, Any], cache: KVCache[Array]) -> None:
        self.model, self.cache, self.ops = model, cache, model.ops
        self.is_asynchronous = model.ops.is_asynchronous
        self.forward = model.ops.graph(lambda batch: model.forward(batch, cache))

    def launch(self, plan: Plan, batch: Batch[HostArray]) -> PendingPass:
        """Begin a pass; it changes no request, so that it can be repeated."""
        if plan.copies:
            self.copy_blocks(plan.copies)
        logits = self.forward(self.ops.upload_batch(batch))
        outputs: list[PassOutput] = []
        draws: list[Draw] = []
        for request, tokens, num_logits in plan.parts:
            computed = request.computed + tokens
            output = PassOutput(request, computed, request.draft_tokens, num_logits)
            outputs.append(output)
            scored = 0
            if request.prompt_logprobs is not None:
                scored = output.num_scored
                draws += [request.score(output.first_scored + index) for index in range(scored)]
            draws += request.draws(num_logits - scored)
        return PendingPass(plan, outputs, self.ops.sample(logits, draws) if draws else list)

    def close(self) -> None:
        """Return the model's memory."""
        self.ops.close()

    def copy_blocks(self, copies: list[Copy]) -> None:
        """Make copies and empty the list: in the next pass, their sources may be written to."""
        self.ops.copy_blocks(self.cache, copies)
        copies.clear()

    def logits(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Return the logits the chunks ask for, [R, V]; keys and values go to their blocks."""
        batch = build_batch(chunks, self.cache.block_size)
        return self.ops.download(self.forward(self.ops.upload_batch(batch)))


def build_plan_batch(plan: Plan, block_size: int) -> Batch[HostArray]:
    """Describe a pass over the plan.

    Decodes whose newest token is in flight are filled in by `fill_newest_tokens`.
    """
    if len(plan.parts) <= FEW_REQUESTS:
        chunks = [
            Chunk(request.next_tokens(count), request.computed, request.allocation.blocks, logits)
            for request, count, logits in plan.parts
        ]
        return build_batch(chunks, block_size)
    requests = plan.decodes + [request for request, *_ in plan.prefills]
    tokens = [request.tokens[-1] for request in plan.decodes]
    counts = [1] * len(plan.decodes)
    if plan.has_drafts:
        tokens = [
            token
            for request in plan.decodes
            for token in (request.tokens[-1], *request.draft_tokens)
        ]
        counts = [1 + len(request.draft_tokens) for request in plan.decodes]
    num_logits = counts[:]
    for request, count, logits in plan.prefills:
        tokens += request.next_tokens(count)
        counts.append(count)
        num_logits.append(logits)
    starts = [request.computed for request in requests]
    tables = [request.allocation.table for request in requests]
    return build_large_batch(tokens, starts, counts, num_logits, tables, block_size)


def fill_newest_tokens(batch: Batch[HostArray], plan: Plan) -> None:
    """Put the decodes' newest tokens in, which were in flight when the batch was built."""
    if not plan.has_drafts:
        batch.tokens[: len(plan.decodes)] = [request.tokens[-1] for request in plan.decodes]
