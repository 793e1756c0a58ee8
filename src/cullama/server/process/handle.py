"""Holds what has come of one sample whose model runs in the engine process.

The thread that reads the pipe adds; a thread or an event loop takes. It sends nothing but its
cancellation.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ...engine.client import GenerationRequest, RequestHandle, RequestOutput
from ...engine.request import FinishReason
from ...errors import EngineUnavailableError
from ...sampling.params import SamplingParams, TokenLogprobs
from .latency import Times
from .messages import unpacked

# Tokens and log-probabilities, over the samples of a request.
MAX_UNREAD = 4096  # packed: about 50 KB
MAX_READ = 1024  # as objects: about 50 KB
MIN_UNREAD = 16  # tokens of a sample


class Limits(NamedTuple):
    """How many tokens of a sample may wait for a client that reads slowly, and come together."""

    unread: int = MAX_UNREAD
    read: int = MAX_READ

    @classmethod
    def of(cls, params: SamplingParams) -> Limits:
        values = params.n * (1 if params.logprobs is None else 2 + 2 * params.logprobs)
        return cls(max(MIN_UNREAD, MAX_UNREAD // values), max(1, MAX_READ // values))


DEFAULT_LIMITS = Limits()


class Waiting(NamedTuple):
    """What an event loop waits for: news of one sample."""

    loop: asyncio.AbstractEventLoop
    event: asyncio.Event


class RemoteHandle(RequestHandle):
    """One sample.

    Attributes:
        id: of the request, in the engine process's messages.
        times: when what happened.
        prefilled: tokens of the prompt that are in the cache, while there is no token yet.

    Args:
        changed: the engine's; it guards the fields, and is notified of news.
        limits: with so many unread tokens the engine process is told to hold more back.
    """

    def __init__(
        self,
        id: int,
        seed: int,
        end_ids: frozenset[int],
        changed: threading.Condition,
        send_cancel: Callable[[FinishReason], None],
        send_hold: Callable[[bool], None] = lambda is_held: None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.id, self.seed, self.end_ids = id, seed, end_ids
        self.times = Times(time.monotonic())
        self._changed, self._send_cancel = changed, send_cancel
        self._send_hold, self._limits, self.is_held = send_hold, limits, False
        self._tokens: list[int] = []  # all that came: a replay is compared with them
        self._logprobs: list[bytes] = []  # packed; of the tokens that `read` has not returned
        self._prompt_logprobs: Sequence[TokenLogprobs] = ()
        self._num_read = 0  # tokens that `read` has returned
        self._num_received = 0  # tokens that came from the engine process that runs now
        self._cached_tokens = self.prefilled = 0
        self._reason: FinishReason | None = None
        self._error: Exception | None = None
        self._is_end_read = False
        self._waiting: Waiting | None = None

    # --- for those who read --------------------------------------------------------------------

    def read(self) -> RequestOutput:
        with self._changed:
            start, most = self._num_read, self._limits.read
            tokens, logprobs = self._tokens[start : start + most], self._logprobs[:most]
            self._num_read += len(tokens)
            del self._logprobs[:most]
            unread = len(self._tokens) - self._num_read
            self._is_end_read = self._reason is not None and not unread
            if self.is_held and unread <= self._limits.unread // 2:
                self.is_held = False
                self._send_hold(False)
            return RequestOutput(
                tokens,
                [*map(unpacked, logprobs)],
                self._cached_tokens,
                self._reason if self._is_end_read else None,
                self._error if self._is_end_read else None,
                self._prompt_logprobs,
            )

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._has_news)

    async def wait_async(self) -> None:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._waiting is None or self._waiting.loop is not loop:
                self._waiting = Waiting(loop, asyncio.Event())
            event = self._waiting.event
            event.clear()
            if self._has_news:
                return
        await event.wait()

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        with self._changed:
            if self._reason is not None:
                return
            self._reason = reason
            self._send_cancel(reason)
            self._changed.notify_all()
        wake(self.waiting)

    @property
    def _has_news(self) -> bool:
        is_end_new = self._reason is not None and not self._is_end_read
        return is_end_new or self._num_read < len(self._tokens)

    # --- for the engine, which holds `changed` -------------------------------------------------

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._reason

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were found in the prefix cache."""
        return self._cached_tokens

    @property
    def waiting(self) -> list[Waiting]:
        return [self._waiting] if self._waiting else []

    def add(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[bytes],
        cached_tokens: int,
        finish_reason: FinishReason | None,
        error: Exception | None,
        prompt_logprobs: Sequence[TokenLogprobs],
    ) -> None:
        """Take what passes gave, the fields of a `RequestOutput`, its log-probabilities packed.

        Of a replay, only what the first run had not given.
        """
        if self._reason is not None:  # cancelled meanwhile
            return
        start, end = self._num_received, self._num_received + len(token_ids)
        known = self._tokens[start:end]
        if known and list(token_ids[: len(known)]) != known:
            self.fail(
                EngineUnavailableError("the engine was restarted, and the answer differs now")
            )
            return
        self._num_received = end
        self._tokens += token_ids[len(known) :]
        self._logprobs += logprobs[len(known) :]
        self._cached_tokens = self._cached_tokens or cached_tokens
        self._prompt_logprobs = self._prompt_logprobs or prompt_logprobs
        self._reason, self._error = finish_reason, error
        if not self.is_held and len(self._tokens) - self._num_read >= self._limits.unread:
            self.is_held = True
            self._send_hold(True)

    def as_json(self, sample: int, request: GenerationRequest, block_size: int) -> dict[str, Any]:
        """Return how far this sample of a request is: numbers, no tokens."""
        prompt = len(request.prompt) + len(request.answer)
        computed = prompt + self.num_tokens - 1 if self.num_tokens else self.prefilled
        stage = "decode" if self.num_tokens else "prefill" if self.times.admitted else "waiting"
        return {
            "id": self.id,
            "sample": sample,
            "kind": request.kind,
            "stage": stage,
            "prompt_tokens": prompt,
            "cached_tokens": self.cached_tokens,
            "prefilled_tokens": min(prompt, computed),
            "tokens": self.num_tokens,
            "max_tokens": request.params.max_tokens,
            "priority": request.priority,
            "blocks": -(-computed // block_size),  # those that it shares with others included
            "seconds": round(time.monotonic() - self.times.submitted, 3),
        }

    def progress(self, computed: int, cached: int) -> None:
        """Note how much of the prompt is in the cache, and how much of that was found there."""
        self.prefilled, self._cached_tokens = computed, cached

    def fail(self, error: Exception) -> None:
        if self._reason is None:
            self._reason, self._error = "error", error

    def begin_replay(self) -> None:
        """Expect all tokens once more, from a new engine process."""
        self._num_received = self.prefilled = 0
        self.is_held = False


def wake(waiting: list[Waiting]) -> None:
    """Set the events, with one call for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for loop, event in waiting:
        by_loop.setdefault(loop, []).append(event)
    for loop, events in by_loop.items():
        with suppress(RuntimeError):  # the event loop was closed: nothing waits in it
            loop.call_soon_threadsafe(_set_all, events)


def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
