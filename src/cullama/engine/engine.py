"""Requests in, tokens out: owns the scheduler and the runner, and steps them one pass at a time.

At any moment one thread has the engine: whoever waits for a token and finds it idle takes a step in
which all who are under way take part, so a single text pays for no hand-over between threads. For
readers that must not work themselves, such as an event loop, `start` gives it a thread of its own.
What others ask meanwhile (come in, leave, close) is noted and done between two steps.

It knows tokens only: text is made in `answer.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Piece
from ..errors import (
    ClosedError,
    ContextLengthError,
    NumericalError,
    QueueFullError,
    UsageError,
)
from ..kv_cache import KVCache
from ..llama import Llama
from ..philox import fresh_seed
from ..sampling import Drawn, SamplingParams
from ..sequence import FinishReason, Sequence
from .metrics import Metrics, StepRecord
from .prefix_cache import PrefixCache
from .runner import Outcome, Runner
from .scheduler import MOST_AHEAD, Plan, Scheduler
from .speculation import PromptLookup

DEFAULT_MAX_TOKENS = 256

# Tokens a step: enough to feed the processor, few enough to keep others waiting only briefly.
TOKEN_BUDGET = 512
MOST_RUNNING = 256
MOST_PRIORITY = 1_000_000


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
        self._runner: Runner[Any] | None = Runner(model, cache)
        self._is_open = True  # for new requests
        self._is_busy = False  # some thread has the engine
        self._queue: deque[object] = deque()  # those that wait for it: a mark of each
        self._orders: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()  # guards both; told when the engine is let go
        self._thread: threading.Thread | None = None

    @property
    def runner(self) -> Runner[Any]:
        if self._runner is None:
            raise ClosedError("this LLM was closed; make a new one to go on")
        return self._runner

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
        self._check_prompt(prompt)
        self._check_tokens("stop_token_ids", params.stop_token_ids)
        self._check_tokens("logit_bias", params.logit_bias)
        if type(priority) is not int or abs(priority) > MOST_PRIORITY:
            raise UsageError(f"priority is {priority!r}, expected a whole number like 0, 1 or -1")
        sequences = self._sequences(prompt, params)
        with self._changed:  # two that come at once must not both take the last place
            if not self._is_open:
                raise ClosedError("this LLM was closed; make a new one to go on")
            waiting = len(self.scheduler.waiting) + len(self._orders)
            if self.most_waiting is not None and waiting >= self.most_waiting:
                raise QueueFullError(f"{waiting} requests are waiting already; try again later")
            self._order(lambda: self._let_in(sequences, priority))
        return sequences

    def _sequences(self, prompt: list[int], params: SamplingParams) -> list[Sequence]:
        max_tokens = self._longest_answer(len(prompt), params.max_tokens)
        seed = fresh_seed() if params.seed is None else params.seed
        ends = frozenset(() if params.ignore_eos else self.config.eos_ids) | set(
            params.stop_token_ids
        )
        sequences: list[Sequence] = []
        for index in range(params.n):
            leader = sequences[0] if sequences else None
            sequences.append(
                Sequence(list(prompt), params, max_tokens, seed, ends, index, leader=leader)
            )
        return sequences

    def _let_in(self, sequences: list[Sequence], priority: int) -> None:
        for sequence in sequences:
            if sequence.is_finished:  # cancelled before it came this far
                continue
            self.metrics.submitted += 1
            if self._runner is None:
                self._end(sequence, "error", ClosedError("the LLM was closed before this began"))
                continue
            if sequence.params.speculation:
                sequence.lookup = PromptLookup(sequence.tokens)
            self.scheduler.add(sequence, priority)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence from outside, at any time; does nothing to one that has ended."""
        if not sequence.is_finished:
            self._order(lambda: self._end(sequence, reason))

    def take(self, sequence: Sequence) -> list[int]:
        """Its tokens that nobody has taken yet."""
        tokens = sequence.tokens[sequence.prompt_length + sequence.taken :]
        sequence.taken += len(tokens)
        # Asked after `taken` is set, at which `_pause` looks again: one of the two sees the other.
        if tokens and sequence.stage in ("paused", "waiting"):
            self._order(lambda: self.scheduler.resume(sequence))
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
        self._check_prompt(tokens)
        self._longest_answer(len(tokens), 0)
        self._seize()
        try:
            return self._logits(tokens)
        finally:
            self._let_go()

    # --- one thread at a time ------------------------------------------------------------------

    def step(self) -> None:
        """One pass of the model over everyone's next tokens."""
        self._step_unless(lambda: False)

    def start(self) -> None:
        """Work in a thread of its own from now on, until the engine is closed."""
        with self._changed:
            if self._thread is None and self._runner is not None:
                self._thread = threading.Thread(target=self._work, name="cullama", daemon=True)
                self._thread.start()

    def drain(self) -> None:
        """Take no more requests, and return when those under way have ended.

        One that is far ahead of its reader ends when that reads on; or else `close` ends it.
        """
        self._is_open = False
        while True:
            self.step()
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._is_busy and (self.scheduler.has_work or not self._under_way)
                )
                if not self._under_way:
                    return

    def close(self) -> None:
        """Let go of model and cache. Texts under way end with `ClosedError`."""
        self._is_open = False
        self._order(self._shut)
        with self._changed:
            self._changed.wait_for(lambda: self._runner is None)
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _work(self) -> None:
        while self._runner is not None:
            with self._changed:
                self._changed.wait_for(lambda: self.scheduler.has_work or self._runner is None)
            try:
                self.step()
            except Exception as error:  # a mistake of ours: those who wait must hear of it
                self._order(partial(self._end_all, error))

    def advance(self, sequence: Sequence) -> None:
        """Return when there is a token to take, or the end: by a step of our own, where nobody
        else takes one."""

        def has_news() -> bool:
            return sequence.taken < sequence.drawn or sequence.is_finished

        if self._thread is None:
            self._step_unless(has_news)
            return
        with self._changed:
            self._changed.wait_for(has_news)

    def _step_unless(self, is_needless: Callable[[], bool]) -> None:
        if not self._seize(is_needless):
            return
        try:
            self._carry_out_orders()
            if self.scheduler.has_work:
                self._step()
        finally:
            self._let_go()

    def _seize(self, is_needless: Callable[[], bool] = lambda: False) -> bool:
        """Have the engine, in order of asking; False where meanwhile there is no need to."""
        mark = object()
        with self._changed:
            self._queue.append(mark)
            try:
                self._changed.wait_for(
                    lambda: is_needless() or (not self._is_busy and self._queue[0] is mark)
                )
                if is_needless():
                    return False
                self._is_busy = True
                return True
            finally:
                self._queue.remove(mark)
                if self._queue and not self._is_busy:
                    self._changed.notify_all()

    def _let_go(self) -> None:
        with self._changed:
            try:
                self._carry_out_orders()
            finally:
                self._is_busy = False
                self._changed.notify_all()

    def _order(self, order: Callable[[], None]) -> None:
        """Have something done by whoever has the engine; at once, if nobody has."""
        self._orders.append(order)
        with self._changed:
            if not self._is_busy:
                self._is_busy = True
                self._let_go()

    def _carry_out_orders(self) -> None:
        while self._orders:
            self._orders.popleft()()

    # --- what is done by whoever has the engine ------------------------------------------------

    def _step(self) -> None:
        start, before = time.perf_counter(), self._totals()
        plan = self.scheduler.schedule()
        waiting, tokens = len(self.scheduler.waiting), plan.tokens
        for outcome in self._run(plan):
            self._take_in(outcome)
        seconds = time.perf_counter() - start
        self.metrics.steps += 1
        self.metrics.busy_seconds += seconds
        for observer in self.observers:
            drawn, preemptions, cached, ended = np.subtract(self._totals(), before).tolist()
            pool = self.cache.pool
            observer(
                StepRecord(
                    start=start,
                    seconds=seconds,
                    writing=len(plan.writers),
                    reading=len(plan.readers),
                    tokens=tokens,
                    drawn=drawn,
                    waiting=waiting,
                    blocks_free=pool.free,
                    blocks_kept=pool.kept,
                    blocks_held=pool.held,
                    preemptions=preemptions,
                    cached_tokens=cached,
                    ended=ended,
                )
            )

    def _totals(self) -> tuple[int, int, int, int]:
        metrics = self.metrics
        ended = metrics.ended.total()
        return metrics.drawn_tokens, metrics.preemptions, metrics.cached_tokens, ended

    def _run(self, plan: Plan) -> list[Outcome]:
        """What goes wrong in a pass of many is tried again one by one: it ends only its own."""
        if not len(plan):
            return []
        try:
            return self.runner.step(plan)
        except Exception as error:
            if len(plan) > 1:
                return [outcome for each in plan.one_by_one() for outcome in self._run(each)]
            [(sequence, _)] = plan
            self._end(sequence, "error", error)
            return []

    def _take_in(self, outcome: Outcome) -> None:
        """The tokens a pass gave a sequence."""
        sequence, tokens, drawn = outcome
        if not drawn:
            sequence.computed += tokens
            return
        before = sequence.drawn
        error = self._append(sequence, drawn)
        self._count(sequence, sequence.drawn - before, error)
        if error is not None:
            self._end(sequence, "error", error)
            return
        sequence.computed = sequence.sound = len(sequence) - 1
        self.scheduler.has_drawn(sequence)
        if sequence.is_finished:
            self._leave(sequence)
        elif _is_far_ahead(sequence):
            self._pause(sequence)
        if sequence.on_change is not None:
            sequence.on_change()

    @staticmethod
    def _append(sequence: Sequence, drawn: list[Drawn | NumericalError]) -> NumericalError | None:
        """The tokens up to the first that nobody guessed; or up to an error, which is returned."""
        for token, guess in zip(drawn, [*sequence.guesses, None], strict=True):
            if isinstance(token, NumericalError):
                return token
            sequence.append(token)
            if token.token != guess or sequence.is_finished:
                break
        return None

    def _pause(self, sequence: Sequence) -> None:
        self.scheduler.pause(sequence)
        if not _is_far_ahead(sequence):  # its reader reads this very moment, see `take`
            self.scheduler.resume(sequence)

    def _count(self, sequence: Sequence, drawn: int, error: NumericalError | None) -> None:
        self.metrics.drawn_tokens += drawn
        if sequence.lookup is not None:
            guessed, right = len(sequence.guesses), drawn - (error is None)
            sequence.lookup.learn(guessed, right)
            self.metrics.guessed_tokens += guessed
            self.metrics.right_guesses += right
            sequence.guesses = []

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
        for sequence in self._under_way:
            error = ClosedError("the LLM was closed while this text was under way")
            self._end(sequence, "error", error)
        self._runner = None

    def _logits(self, tokens: list[int]) -> NDArray[np.float32]:
        blocks = self.cache.pool.allocate(-(-len(tokens) // self.cache.block_size))
        if blocks is None:
            raise UsageError(
                f"{len(tokens)} tokens find no room in the cache while other texts are under "
                "way; finish or close those first"
            )
        try:
            parts = [
                self.runner.logits([Piece(part, start, blocks, len(part))])
                for start in range(0, len(tokens), TOKEN_BUDGET)
                if (part := tokens[start : start + TOKEN_BUDGET])
            ]
        finally:
            self.cache.pool.release(blocks)
        return np.concatenate(parts)

    # --- what may be asked ---------------------------------------------------------------------

    def _check_prompt(self, tokens: list[int]) -> None:
        if not tokens:
            raise UsageError("the prompt is empty, expected at least one token")
        self._check_tokens("the prompt", tokens)

    def _check_tokens(self, where: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if (
                type(token) is bool
                or not isinstance(token, int | np.integer)
                or not 0 <= token < self.config.vocab_size
            ):
                raise UsageError(
                    f"{where} holds {token!r}, expected token ids below {self.config.vocab_size}"
                )

    def _longest_answer(self, prompt: int, asked: int | None) -> int:
        """The tokens the answer may have.

        Raises:
            ContextLengthError: prompt and answer are longer than the context, or than the cache.
        """
        # The last one is not kept.
        capacity = self.cache.pool.count * self.cache.block_size + 1
        place, longest = "context", self.context_length
        if capacity < longest:
            place, longest = "cache", capacity - 1
        room = min(self.context_length, capacity) - prompt
        if room < (1 if asked is None else asked):
            answer = f" and an answer of up to {asked}" if asked else ""
            raise ContextLengthError(
                f"a prompt of {prompt} tokens{answer} does not fit the {place} of {longest} "
                "tokens; shorten the prompt" + (" or lower max_tokens" if asked else "")
            )
        return min(room, DEFAULT_MAX_TOKENS) if asked is None else asked


def _is_far_ahead(sequence: Sequence) -> bool:
    return sequence.drawn - sequence.taken >= MOST_AHEAD


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it whoever was waiting
        loop.call_soon_threadsafe(news.set)
