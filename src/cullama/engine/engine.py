"""Requests in, tokens out: owns the scheduler and the runner, and steps them one pass at a time.

At any moment one thread has the engine: whoever waits for a token and finds it idle takes a step in
which all who are under way take part, so a single text pays for no hand-over between threads. For
readers that must not work themselves, such as an event loop, `start` gives it a thread of its own.
What others ask meanwhile (come in, leave, close) is noted and done between two steps.

Where a pass goes on by itself once it is launched, on a device, the next one is scheduled and built
while it runs, and launched as soon as its tokens are there; whatever else these bring about is seen
to while the next one runs.

It knows tokens only: text is made in `answer.py`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ClosedError, QueueFullError, UsageError
from ..files.tensor import HostArray
from ..model.batch import Batch, Chunk
from ..model.kv_cache import KVCache
from ..model.llama import Llama
from ..sampling.params import SamplingParams
from .insider import Insider
from .messages import Capacity
from .metrics import Metrics
from .prefix_cache import PrefixCache
from .runner import Flight, Outcome, Runner, plan_batch
from .scheduler import Plan, Scheduler, is_far_ahead
from .sequence import FinishReason, Sequence, sequences_of
from .trace import StepRecord, StepWatch
from .turns import Turns
from .validation import check_priority, check_prompt, check_request, completion_limit

# Tokens a step: enough to feed the processor, few enough to keep others waiting only briefly.
TOKEN_BUDGET = 512
MOST_RUNNING = 256


class Engine:
    """`most_waiting`: further requests are refused while so many wait; None refuses none."""

    def __init__(
        self,
        model: Llama[Any],
        cache: KVCache[Any],
        context_length: int,
        most_waiting: int | None = None,
    ) -> None:
        self.config, self.context_length = model.config, context_length
        self.most_waiting = most_waiting
        self.metrics = Metrics()
        self.cache = PrefixCache(cache.blocks, cache.block_size)
        self.scheduler = Scheduler(self.cache, TOKEN_BUDGET, MOST_RUNNING, self.metrics)
        self.observers: list[Callable[[StepRecord], None]] = []  # called after each step
        self.capacity = Capacity(
            model.config.vocab_size,
            model.config.eos_ids,
            context_length,
            cache.blocks * cache.block_size,
        )
        self._runner: Runner[Any] | None = Runner(model, cache)
        self._flight: Flight | None = None  # a pass that has been launched, and goes on by itself
        self._turns = Turns()
        self._is_open = True  # for new requests
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def runner(self) -> Runner[Any]:
        if self._runner is None:
            raise ClosedError("this LLM was closed; make a new one to go on")
        return self._runner

    @property
    def longest_text(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.capacity.max_length

    @property
    def has_work(self) -> bool:
        return self._flight is not None or self.scheduler.has_work

    # --- in and out ----------------------------------------------------------------------------

    def submit(
        self, prompt: list[int], params: SamplingParams, priority: int = 0
    ) -> list[Sequence]:
        """One sequence for each of the request's n samples.

        Raises:
            UsageError: an empty prompt, or a token id outside the vocabulary.
            ContextLengthError: prompt and answer do not fit the context.
            QueueFullError: too many are waiting already.
            ClosedError: the engine takes no more requests.
        """
        self._check_process()
        check_priority(priority)
        max_tokens = check_request(prompt, params, self.capacity)
        sequences = sequences_of(prompt, params, max_tokens, self.capacity.eos_ids)
        with self._turns.changed:  # two that come at once must not both take the last place
            if not self._is_open:
                raise ClosedError("this LLM was closed; make a new one to go on")
            waiting = len(self.scheduler.waiting) + self._turns.orders
            if self.most_waiting is not None and waiting >= self.most_waiting:
                raise QueueFullError(f"{waiting} requests are waiting already; try again later")
            self._turns.order(lambda: self._let_in(sequences, priority))
        return sequences

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence from outside, at any time; does nothing to one that has ended."""
        if not sequence.is_finished:
            self._turns.order(lambda: self._end(sequence, reason))

    def take(self, sequence: Sequence) -> list[int]:
        """Its tokens that nobody has taken yet."""
        tokens = sequence.tokens[sequence.prompt_length + sequence.taken :]
        sequence.taken += len(tokens)
        # Asked after `taken` is set, at which `_pause` looks again: one of the two sees the other.
        if tokens and sequence.stage in ("paused", "waiting"):
            self._turns.order(lambda: self.scheduler.resume(sequence))
        return tokens

    def tokens(self, sequence: Sequence) -> Generator[int, None, None]:
        """Its tokens as they are drawn; closing the iterator ends the sequence."""
        try:
            while self._has_more(sequence):
                yield from self.take(sequence)
                if not sequence.is_finished:
                    self.advance(sequence)
            if sequence.error is not None:
                raise sequence.error
        finally:
            self.finish(sequence, "cancelled")

    async def tokens_async(self, sequence: Sequence) -> AsyncGenerator[int, None]:
        """The same for an event loop: `async for`. The engine works in a thread of its own."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        sequence.on_change = lambda: _tell(loop, news)
        self.start()
        try:
            while self._has_more(sequence):
                for token in self.take(sequence):
                    yield token
                if not sequence.is_finished:
                    await news.wait()
                    news.clear()
            if sequence.error is not None:
                raise sequence.error
        finally:
            self.finish(sequence, "cancelled")

    @staticmethod
    def _has_more(sequence: Sequence) -> bool:
        return not sequence.is_finished or sequence.taken < sequence.drawn

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """What the model predicts after each token, [T, V]."""
        self._check_process()
        check_prompt(tokens, self.capacity)
        completion_limit(len(tokens), 0, self.capacity)
        self._turns.seize()
        try:
            return self._logits(tokens)
        finally:
            self._turns.let_go()

    # --- who works, and until when -------------------------------------------------------------

    def step(self) -> None:
        """One pass of the model over everyone's next tokens."""
        self._step_unless(lambda: False)

    def advance(self, sequence: Sequence) -> None:
        """Return when there is a token to take, or the end: by a step of our own, where nobody
        else takes one."""
        has_news = partial(_has_news, sequence)
        if self._thread is None:
            self._step_unless(has_news)
        else:
            self._turns.wait_for(has_news)

    def start(self) -> None:
        """Work in a thread of its own from now on, until the engine is closed."""
        with self._turns.changed:
            if self._thread is None and self._runner is not None:
                self._thread = threading.Thread(target=self._work, name="cullama", daemon=True)
                self._thread.start()

    def drain(self) -> None:
        """Take no more requests, and return when those under way have ended.

        One that is far ahead of its reader ends when that reads on; or else `close` ends it.
        """
        self._is_open = False
        while self._turns.orders or self._under_way:
            self.step()
            self._turns.wait_for(lambda: self.has_work or not self._under_way)

    @contextmanager
    def exclusive(self) -> Iterator[Insider[Any]]:
        """Hold the engine's lock: no other thread runs the model meanwhile.

        Raises:
            ClosedError: the engine was closed.
        """
        self._turns.seize()
        try:
            yield Insider(self.runner, self.scheduler, self.cache)
        finally:
            self._turns.let_go()

    def close(self) -> None:
        """Let go of model and cache. Texts under way end with `ClosedError`."""
        self._is_open = False
        if self._has_lost_its_thread:  # whose locks may be held for ever; the parent has the memory
            self._runner = None
            return
        self._turns.order(self._shut)
        if self._turns.is_mine:  # an observer closes us: it is done at the end of this step
            return
        self._turns.wait_for(lambda: self._runner is None)
        if self._thread is not None:
            self._thread.join()

    @property
    def _has_lost_its_thread(self) -> bool:
        """By a fork, which takes along only the thread that asks for it."""
        return self._thread is not None and self._process != os.getpid()

    def _check_process(self) -> None:
        if self._has_lost_its_thread:
            raise UsageError(
                "this process was forked from one in which the LLM works in a thread of its own; "
                "start processes with multiprocessing's 'spawn', or load the model after the fork"
            )

    def _work(self) -> None:
        while self._runner is not None:
            self._turns.wait_for(lambda: self.has_work or self._runner is None)
            try:
                self.step()
            except Exception as error:  # a mistake of ours: those who wait must hear of it
                self._turns.order(partial(self._end_all, error))

    def _step_unless(self, is_needless: Callable[[], bool]) -> None:
        if not self._turns.seize(is_needless):
            return
        try:
            self._turns.carry_out_orders()
            if self.has_work:
                self._step()
        finally:
            self._turns.let_go()

    # --- a step --------------------------------------------------------------------------------

    def _step(self) -> None:
        start = time.perf_counter()
        watch = StepWatch(self.metrics, self.cache.pool) if self.observers else None
        if self._flight is not None and self.scheduler.is_guessing:  # it needs the tokens for that
            self._land()
        plan = self.scheduler.schedule()
        if watch is not None:
            watch.note(plan, len(self.scheduler.waiting))
        self._pass(plan)
        seconds = time.perf_counter() - start
        self.metrics.steps += 1
        self.metrics.busy_seconds += seconds
        if watch is not None:
            record = watch.record(start, seconds)
            for observer in self.observers:
                observer(record)

    def _pass(self, plan: Plan) -> None:
        """Launch a pass over the plan as soon as the one before it has given its tokens."""
        batch = plan_batch(plan, self.cache.block_size) if len(plan) else None
        flight, self._flight = self._flight, None
        outcomes, failure = self._read(flight), None
        if batch is not None:
            try:
                self._flight = self._launch(plan, batch)
            except Exception as error:
                failure = error
        for outcome in outcomes:
            self._settle(outcome)
        if failure is not None:  # whoever has ended by now takes no part in trying again
            for outcome in self._one_by_one(plan, failure):
                self._settle(outcome)
        if not self.runner.is_asynchronous:
            self._land()

    def _land(self) -> None:
        """See a pass to its end."""
        flight, self._flight = self._flight, None
        for outcome in self._read(flight):
            self._settle(outcome)

    def _read(self, flight: Flight | None) -> list[Outcome]:
        """What a pass gave, appended to its sequences; waits for it."""
        if flight is None:
            return []
        try:
            outcomes = flight.read()
        except BaseException as error:
            self.scheduler.recall(flight.plan)
            if not isinstance(error, Exception):  # Ctrl-C: the next step does it all again
                raise
            return self._one_by_one(flight.plan, error)
        for outcome in outcomes:
            outcome.append()
        return outcomes

    def _one_by_one(self, plan: Plan, error: Exception) -> list[Outcome]:
        """What goes wrong in a pass of many is tried again one by one: it ends only its own."""
        if len(plan) == 1:
            [(sequence, _)] = plan
            self._end(sequence, "error", error)
            return []
        outcomes: list[Outcome] = []
        for each in plan.one_by_one():
            [(sequence, _)] = each
            if not sequence.blocks:  # gave them up while the pass ran, and comes back by itself
                continue
            try:
                flight = self._launch(each, plan_batch(each, self.cache.block_size))
            except Exception as its_error:
                self._one_by_one(each, its_error)
            else:
                outcomes += self._read(flight)
        return outcomes

    def _launch(self, plan: Plan, batch: Batch[HostArray]) -> Flight:
        flight = self.runner.launch(plan, batch)
        self.scheduler.has_launched(plan)
        return flight

    def _settle(self, outcome: Outcome) -> None:
        """All that tokens bring about, but for the next pass."""
        sequence = outcome.sequence
        if outcome.is_void:
            return
        self._count(outcome)
        if outcome.error is not None:
            self._end(sequence, "error", outcome.error)
            return
        self.scheduler.has_drawn(sequence, outcome.sound)
        if sequence.is_finished:
            self._leave(sequence)
        elif is_far_ahead(sequence):
            self._pause(sequence)
        if sequence.on_change is not None:
            sequence.on_change()

    def _pause(self, sequence: Sequence) -> None:
        self.scheduler.pause(sequence)
        if not is_far_ahead(sequence):  # its reader reads this very moment, see `take`
            self.scheduler.resume(sequence)

    def _count(self, outcome: Outcome) -> None:
        self.metrics.drawn_tokens += outcome.appended
        if outcome.sequence.lookup is not None:
            guessed, right = len(outcome.guesses), outcome.right
            outcome.sequence.lookup.learn(guessed, right)
            self.metrics.guessed_tokens += guessed
            self.metrics.right_guesses += right

    # --- what is done by whoever has the engine ------------------------------------------------

    def _let_in(self, sequences: list[Sequence], priority: int) -> None:
        for sequence in sequences:
            if sequence.is_finished:  # cancelled before it came this far
                continue
            self.metrics.submitted += 1
            if self._runner is None:
                self._end(sequence, "error", ClosedError("the LLM was closed before this began"))
                continue
            self.scheduler.add(sequence, priority)

    def _end(
        self, sequence: Sequence, reason: FinishReason, error: Exception | None = None
    ) -> None:
        if sequence.is_finished:
            return
        sequence.end(reason, error)
        self._leave(sequence)
        if sequence.on_change is not None:
            sequence.on_change()

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.finish_reason is not None
        self.metrics.ended[sequence.finish_reason] += 1
        self.scheduler.remove(sequence)

    @property
    def _under_way(self) -> list[Sequence]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    def _end_all(self, error: Exception) -> None:
        for sequence in self._under_way:
            self._end(sequence, "error", error)

    def _shut(self) -> None:
        with suppress(Exception):  # nobody asks for it any more, but it must not go on
            self._land()
        self._end_all(ClosedError("the LLM was closed while this text was under way"))
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    def _logits(self, tokens: list[int]) -> NDArray[np.float32]:
        self.runner.make(self.scheduler.copies)  # left over by a step that Ctrl-C cut short
        blocks = self.cache.pool.allocate(self.cache.blocks_for(len(tokens)))
        if blocks is None:
            raise UsageError(
                f"{len(tokens)} tokens find no room in the cache while other texts are under "
                "way; finish or close those first"
            )
        try:
            parts = [
                self.runner.logits([Chunk(part, start, blocks, len(part))])
                for start in range(0, len(tokens), TOKEN_BUDGET)
                if (part := tokens[start : start + TOKEN_BUDGET])
            ]
        finally:
            self.cache.pool.release(blocks)
        return np.concatenate(parts)


def _has_news(sequence: Sequence) -> bool:
    return sequence.taken < sequence.drawn or sequence.is_finished


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it whoever was waiting
        loop.call_soon_threadsafe(news.set)
