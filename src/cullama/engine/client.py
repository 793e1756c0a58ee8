"""The engine's interface: what text generation, a server and tests use of an engine.

`Engine` (engine.py) implements it in this process. An engine in another process, a replica or a
test double implements the same: what crosses is frozen records and handles, never the scheduler's
own `Request`. It gives no access to the model: that is `Engine.exclusive`, in this process only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..sampling.params import SamplingParams, TokenLogprobs
from .metrics import Metrics
from .request import FinishReason
from .validation import Capacity, check_logprobs_start, check_request


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to continue. `priority`: 1 goes before those that came up to 64 requests earlier,
    2 before twice as many; negative numbers let others pass."""

    prompt: Sequence[int]  # token ids
    params: SamplingParams
    priority: int = 0
    logprobs_start: int = (
        1  # the first position that `prompt_logprobs` asks for; position 0 has none
    )
    answer: Sequence[int] = ()  # its first tokens, which are there: it goes on behind them
    kind: str = ""  # what asks for it, such as "chat": shown where requests are listed

    def check(self, capacity: Capacity) -> int:
        """Return how many tokens may be generated.

        Raises:
            UsageError: an empty prompt, a token id outside the vocabulary, a number out of range.
            ContextLengthError: prompt and completion do not fit the context.
        """
        tokens = [*self.prompt, *self.answer]
        max_tokens = check_request(tokens, self.params, self.priority, capacity)
        check_logprobs_start(self.logprobs_start, len(tokens))
        if self.answer and max_tokens == 0:
            raise UsageError("max_tokens is 0, expected at least 1 where an answer goes on")
        return max_tokens


class RequestOutput(NamedTuple):
    """What is new of one sample since the last `read`."""

    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs]  # one a token where the request asked for them, else empty
    cached_tokens: int  # prompt tokens that were found in the prefix cache
    finish_reason: FinishReason | None  # None: more will follow
    error: Exception | None  # where the reason is "error"
    # Of the prompt from `logprobs_start` on, and of the answer's first tokens, where the request
    # asked for them; empty until all are known, which they are with the first new token or at the
    # end.
    prompt_logprobs: Sequence[TokenLogprobs] = ()


class RequestHandle(Protocol):
    """One sample of a submitted request, as its submitter holds it."""

    seed: int  # drawn by the engine where the request names none
    end_ids: frozenset[int]  # tokens that end the sample; they are no text

    def read(self) -> RequestOutput:
        """Return what is new, which may be nothing; never waits."""

    def wait(self) -> None:
        """Run one step in this thread, or wait for one, unless there is news already.

        May return with nothing new: read, and wait again.
        """

    async def wait_async(self) -> None:
        """Wait for news in an event loop; may return with nothing new."""

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        """Have the sample finished between two steps; does nothing to one that has finished.

        May be called from any thread.
        """


class EngineClient(Protocol):
    """Takes requests for one model.

    Attributes:
        capacity: what requests are checked against.
        metrics: totals since the engine was made, to be read only: live, or a snapshot.
    """

    capacity: Capacity
    metrics: Metrics

    def submit(self, request: GenerationRequest) -> Sequence[RequestHandle]:
        """Queue a request; returns a handle for each of its n samples.

        Raises:
            UsageError: an empty prompt, or a token id outside the vocabulary.
            ContextLengthError: prompt and completion do not fit the context.
            QueueFullError: too many requests are waiting already.
            ClosedError: the engine was closed.
        """

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return what the model predicts after each token, [T, V]. Raises as `submit`."""

    def close(self) -> None:
        """Return the model's memory; running requests finish with `ClosedError`."""
