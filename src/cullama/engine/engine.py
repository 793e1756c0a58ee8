"""The engine in this process: takes requests, gives tokens, and lets one thread at a time work.

A thread that waits for a token and finds the engine idle runs a step itself, over every request
that the scheduler selects: so a single request pays for no hand-over between threads. For callers
that must not block, such as an event loop, `start` gives the engine a thread of its own. What other
threads ask meanwhile (submit, cancel, close) is posted to the lock and done between two steps.

In a forked child everything but the weights begins again: parent and child share no KV cache.

It implements the interface in client.py. What a step does is core.py's; it makes no text.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ClosedError, ConstraintError, CullamaError, QueueFullError, UsageError
from ..model.batch import Chunk
from ..model.kv_cache import KVCache
from ..model.llama import AnyLlama
from ..process.forks import restart_after_fork
from ..process.interrupts import INTERRUPTS
from ..sampling.params import SamplingParams
from .client import EngineClient, GenerationRequest, RequestHandle, RequestOutput
from .core import EngineCore
from .grammars import Grammars
from .lock import EngineLock
from .matcher import Matcher
from .metrics import Metrics
from .model_access import ModelAccess
from .prefix_cache import PrefixCache
from .request import FinishReason, Request, make_requests
from .runner import Runner
from .scheduler import Scheduler
from .trace import StepRecord
from .validation import (
    DEFAULT_MAX_TOKENS,
    Capacity,
    check_length,
    check_prompt,
)

# Bytes of logits a step, beside those that tokens are drawn from: a prompt that is scored has a row
# of them for each token, and goes through the model in chunks of fewer tokens.
MAX_LOGIT_BYTES = 64 << 20
MIN_LOGIT_ROWS = 32

# Tokens a step: enough to feed the processor, few enough to keep others waiting only briefly.
TOKEN_BUDGET = 512
MAX_RUNNING = 256


NOTHING_NEW = RequestOutput((), (), 0, None, None)


class Engine(EngineClient):
    """One model, its KV cache, and the requests that share them.

    Attributes:
        capacity: what requests are checked against.
        metrics: totals since the engine was made, in this process.
        core: runs the passes; another one in a forked child.
        max_waiting: further requests are refused while so many wait; None refuses none.
        grammars: compiles the forms that answers must have; None: requests may ask for none.
        observers: called with a `StepRecord` after each step.
    """

    def __init__(
        self,
        model: AnyLlama,
        cache: KVCache[Any],
        context_length: int,
        max_waiting: int | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        grammars: Grammars | None = None,
    ) -> None:
        config, cache_tokens = model.config, cache.blocks * cache.block_size
        self.capacity = Capacity(
            config.vocab_size, config.eos_ids, context_length, cache_tokens, default_max_tokens
        )
        self.max_waiting, self.grammars = max_waiting, grammars
        self.observers: list[Callable[[StepRecord], None]] = []
        self._is_open = True  # for new requests
        self._refusal: Exception | None = None  # why this process cannot run the model
        self._begin(model, cache)
        restart_after_fork(self)

    def _begin(self, model: AnyLlama, cache: KVCache[Any]) -> None:
        """Set up all that belongs to one process."""
        self._process = os.getpid()
        self.metrics = Metrics(compile_seconds=model.ops.compile_seconds)
        self.prefix_cache = PrefixCache(cache.blocks, cache.block_size)
        self.scheduler = Scheduler(self.prefix_cache, TOKEN_BUDGET, MAX_RUNNING, self.metrics)
        self.scheduler.logits_budget = max(
            MIN_LOGIT_ROWS, MAX_LOGIT_BYTES // (4 * model.config.vocab_size)
        )
        self.core = EngineCore(self.scheduler, Runner(model, cache), self.metrics, self.observers)
        self._lock = EngineLock()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """Begin again in a forked child: the model's weights, an empty KV cache, no requests.

        What the parent runs is left as it is. A child that cannot run the model says so when it is
        asked to.
        """
        self._process, self._lock, self._thread = os.getpid(), EngineLock(), None
        runner = self.core.drop_runner()
        if runner is None:  # it was closed before
            return
        model, tokens = runner.model, self.capacity.cache_tokens
        del runner  # and with it the parent's cache, before there is another
        try:
            model.ops.after_fork()
            self._begin(model, model.ops.cache(model.config, tokens))
        except CullamaError as error:
            self._refusal = error

    @property
    def runner(self) -> Runner[Any]:
        """What runs the model. Raises ClosedError."""
        self._check_process()
        return self.core.runner

    @property
    def has_work(self) -> bool:
        return self.core.has_work

    # --- the interface of client.py ------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> list[EngineHandle]:
        self._check_process()
        tokens, begun = [*request.prompt, *request.answer], len(request.answer)
        max_tokens = request.check(self.capacity)
        samples = make_requests(
            tokens,
            request.params,
            max_tokens,
            self.capacity.eos_ids,
            request.logprobs_start,
            begun,
            self._matchers(request.params),
        )
        try:
            # Two that come at once must not both take the last place.
            with INTERRUPTS.deferred, self._lock.changed:
                if not self._is_open:
                    raise ClosedError("this LLM was closed; make a new one to go on")
                waiting = len(self.scheduler.waiting) + self._lock.num_posted
                if self.max_waiting is not None and waiting >= self.max_waiting:
                    raise QueueFullError(f"{waiting} requests are waiting already; try again later")
                self._lock.post(lambda: self._add(samples, request.priority))
        except KeyboardInterrupt:  # they have no handle by which to cancel them
            for sample in samples:
                self.cancel(sample)
            raise
        return [EngineHandle(self, sample) for sample in samples]

    def _matchers(self, params: SamplingParams) -> Callable[[frozenset[int]], Matcher] | None:
        """Return what makes matchers of the form that is asked for. Raises ConstraintError."""
        constraint = params.constraint
        if constraint is None:
            return None
        if self.grammars is None:
            words = f"{constraint.kind} needs a tokenizer, expected an engine that has one"
            raise ConstraintError(constraint.kind, words)
        self.grammars.check(constraint)
        return partial(self.grammars.matcher, constraint)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._check_process()
        check_prompt(tokens, self.capacity)
        check_length(len(tokens), self.capacity)
        with INTERRUPTS.deferred:
            self._lock.acquire()
            try:
                return self._logits(tokens)
            finally:
                self._lock.release()

    def _logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self.scheduler.copies:  # left by a step that Ctrl-C cut short
            self.runner.copy_blocks(self.scheduler.copies)
        pool = self.prefix_cache.pool
        blocks = pool.allocate(self.prefix_cache.blocks_for(len(tokens)))
        if blocks is None:
            raise UsageError(
                f"{len(tokens)} tokens find no room in the cache beside the requests that are "
                "running; finish or close those first"
            )
        try:
            with INTERRUPTS.allowed:
                parts = [
                    self.runner.logits([Chunk(part, start, blocks, len(part))])
                    for start in range(0, len(tokens), TOKEN_BUDGET)
                    if (part := tokens[start : start + TOKEN_BUDGET])
                ]
        finally:
            pool.release(blocks)
        return np.concatenate(parts)

    @contextmanager
    def exclusive(self) -> Iterator[ModelAccess[Any]]:
        """Hold the lock and hand out the model, for work below requests. Raises ClosedError."""
        self._check_process()
        with INTERRUPTS.deferred:
            self._lock.acquire()
            try:
                with INTERRUPTS.allowed:
                    yield ModelAccess(self.runner, self.scheduler, self.prefix_cache)
            finally:
                self._lock.release()

    def close(self) -> None:
        self._is_open = False
        if self._process != os.getpid():  # forked unnoticed: the parent has requests and memory
            self.after_fork()
        self._lock.post(self._shut)
        if self._lock.is_mine:  # called by an observer: it is done at the end of this step
            return
        self._lock.wait_for(lambda: self.core.is_closed)
        if self._thread is not None:
            self._thread.join()

    # --- for handles ---------------------------------------------------------------------------

    def read(self, request: Request) -> RequestOutput:
        """Return what is new since the last call; a backpressured request goes on."""
        reason = request.finish_reason  # first: what comes before the end is then read, too
        start = request.delivered
        tokens = request.tokens[request.prompt_length + start :]
        request.delivered += len(tokens)
        # A reader sets `delivered`, then looks at the stage; `EngineCore._process` sets the stage,
        # then looks at `delivered`: so at least one of them resumes the request.
        if tokens and request.stage in ("backpressured", "waiting"):
            self._lock.post(lambda: self.scheduler.resume(request))
        first = start - request.begun
        logprobs = request.logprobs[first : first + len(tokens)]
        scored = request.prompt_logprobs
        is_first = first == 0 and scored is not None and scored.is_complete
        return RequestOutput(
            tokens,
            logprobs,
            request.cached_tokens,
            reason,
            request.error,
            tuple(scored.values) if scored is not None and is_first else (),
        )

    def wait(self, request: Request) -> None:
        """Without an engine thread, run one step here, news or not; with one, wait for news.

        Returns at once where there is news already.
        """
        has_news = partial(_has_news, request)
        if self._thread is None:
            self._step_unless(has_news)
        else:
            self._lock.wait_for(has_news)

    def cancel(self, request: Request, reason: FinishReason = "cancelled") -> None:
        """Finish a request between two steps; does nothing to one that has finished."""
        if request.finish_reason is None:
            self._lock.post(lambda: self.core.finish(request, reason))

    # --- who works, and until when -------------------------------------------------------------

    def step(self) -> None:
        """Run one step: a pass of the model over the requests that the scheduler selects."""
        self._step_unless(lambda: False)

    def start(self) -> None:
        """Work in a thread of its own from now on, until the engine is closed."""
        with self._lock.changed:
            if self._thread is None and not self.core.is_closed:
                self._thread = threading.Thread(target=self._work, name="cullama", daemon=True)
                self._thread.start()

    def drain(self) -> None:
        """Take no more requests, and return when all that were submitted have finished.

        A backpressured one finishes when its tokens are read; or else `close` ends it.
        """
        self._is_open = False
        while self._lock.num_posted or self._unfinished:
            self.step()
            self._lock.wait_for(lambda: self.has_work or not self._unfinished)

    @property
    def _unfinished(self) -> list[Request]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    def _check_process(self) -> None:
        """Begin again after a fork that Python missed; raise what keeps the model from running."""
        if self._process != os.getpid():
            self.after_fork()
        if self._refusal is not None:
            raise self._refusal

    def _work(self) -> None:
        while not self.core.is_closed:
            self._lock.wait_for(lambda: self.has_work or self.core.is_closed)
            try:
                self.step()
            except Exception as error:  # a mistake of ours: every request ends with it
                self._lock.post(partial(self._fail_all, error))

    def _step_unless(self, unless: Callable[[], bool]) -> None:
        with INTERRUPTS.deferred:
            if not self._lock.acquire(unless):
                return
            try:
                self._lock.do_posted()
                if self.core.has_work:
                    self.core.step()
            finally:
                self._lock.release()

    # --- done by the thread that holds the lock ------------------------------------------------

    def _add(self, samples: list[Request], priority: int) -> None:
        for request in samples:
            if request.is_finished:  # cancelled before it came this far
                continue
            self.metrics.submitted += 1
            if self.core.is_closed:
                error = ClosedError("the LLM was closed before this began")
                self.core.finish(request, "error", error)
            else:
                self.scheduler.add(request, priority)

    def _fail_all(self, error: Exception) -> None:
        for request in self._unfinished:
            self.core.finish(request, "error", error)

    def _shut(self) -> None:
        with suppress(Exception):  # its outputs are of no use any more, but it must not go on
            self.core.finish_pending()
        self._fail_all(ClosedError("the LLM was closed while this request was running"))
        self.core.close()


class EngineHandle(RequestHandle):
    """A handle of this process's engine; `request` is for traces and tests to look at."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self.request = engine, request
        self._core = engine.core  # which a forked child replaces
        self.seed, self.end_ids = request.seed, request.end_ids
        self._event_loop: asyncio.AbstractEventLoop | None = None

    def read(self) -> RequestOutput:
        # Asked of every sample of a long list after each step: mostly there is nothing new.
        if not _has_news(self.request) or self._core is not self._engine.core:
            return NOTHING_NEW
        return self._engine.read(self.request)

    def wait(self) -> None:
        self._check_process()
        self._engine.wait(self.request)

    async def wait_async(self) -> None:
        """The engine works in a thread of its own from here on."""
        self._check_process()
        if self._event_loop is not asyncio.get_running_loop():
            self._event_loop, self._news = asyncio.get_running_loop(), asyncio.Event()
            self.request.on_change = partial(_wake, self._event_loop, self._news)
            self._engine.start()
        self._news.clear()  # before the question: what comes after it, sets it again
        if not _has_news(self.request):
            await self._news.wait()

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        if self._core is self._engine.core:  # else it goes on in the process it was submitted in
            self._engine.cancel(self.request, reason)

    def _check_process(self) -> None:
        if self._core is not self._engine.core:
            raise UsageError(
                "this answer was begun before the process was forked, and the parent generates it; "
                "ask for another in this process"
            )


def _has_news(request: Request) -> bool:
    drawn = len(request.tokens) - request.prompt_length
    return request.delivered < drawn or request.finish_reason is not None


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the event loop was closed: it waits for nothing any more
        loop.call_soon_threadsafe(news.set)
