"""Requests in, tokens out: owns the scheduler and the runner, and steps them for whoever waits.

Any number of texts may be under way; whoever asks for its next token makes a step in which all
take part. It knows tokens only: text is made in `answer.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Piece
from ..errors import ClosedError, ContextLengthError, NumericalError, UsageError
from ..kv_cache import KVCache
from ..llama import Llama
from ..philox import fresh_seed
from ..sampling import SamplingParams
from ..sequence import FinishReason, Sequence
from .blocks import BlockPool
from .runner import Runner
from .scheduler import Scheduler

DEFAULT_MAX_TOKENS = 256

# Tokens a step: enough to feed the processor, few enough to keep others waiting only briefly.
TOKEN_BUDGET = 512
MOST_RUNNING = 256


class Engine:
    def __init__(self, model: Llama[Any], cache: KVCache[Any], context_length: int) -> None:
        self.config, self.context_length = model.config, context_length
        self._runner: Runner[Any] | None = Runner(model, cache)
        self.pool = BlockPool(cache.blocks)
        self.scheduler = Scheduler(self.pool, cache.block_size, TOKEN_BUDGET, MOST_RUNNING)
        # Two threads of a notebook may both be waiting for tokens; one steps, the other gets its
        # token from that step.
        self._lock = threading.RLock()

    @property
    def runner(self) -> Runner[Any]:
        if self._runner is None:
            raise ClosedError("this LLM was closed; make a new one to go on")
        return self._runner

    def close(self) -> None:
        """Let go of model and cache. Texts under way end with `ClosedError`."""
        with self._lock:
            for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
                sequence.error = ClosedError("the LLM was closed while this text was under way")
                self.scheduler.remove(sequence)
            self._runner = None

    def submit(self, prompt: list[int], params: SamplingParams) -> list[Sequence]:
        """One sequence for each of the request's n samples.

        Raises:
            UsageError: an empty prompt, or a token id outside the vocabulary.
            ContextLengthError: prompt and answer do not fit the context.
        """
        self._check_prompt(prompt)
        self._check_tokens("stop_token_ids", params.stop_token_ids)
        self._check_tokens("logit_bias", params.logit_bias)
        max_tokens = self._longest_answer(len(prompt), params.max_tokens)
        seed = fresh_seed() if params.seed is None else params.seed
        ends = frozenset(() if params.ignore_eos else self.config.eos_ids) | set(
            params.stop_token_ids
        )
        sequences = [
            Sequence(list(prompt), params, max_tokens, seed, ends, index)
            for index in range(params.n)
        ]
        with self._lock:
            for sequence in sequences:
                self.scheduler.add(sequence)
        return sequences

    def step(self) -> None:
        """One pass of the model over everyone's next tokens.

        What goes wrong in a pass ends the sequences in it: each then raises it to its own reader.
        """
        with self._lock:
            chosen = self.scheduler.schedule()
            try:
                for sequence, drawn in self.runner.step(chosen):
                    if isinstance(drawn, NumericalError):
                        sequence.error = drawn
                    else:
                        sequence.append(drawn)
                    if sequence.is_finished:
                        self.scheduler.remove(sequence)
            except Exception as error:
                for sequence, _ in chosen:
                    sequence.error = error
                    self.scheduler.remove(sequence)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence from outside, at any time; does nothing to one that has ended."""
        with self._lock:
            if not sequence.is_finished:
                sequence.finish_reason = reason
                self.scheduler.remove(sequence)

    def tokens(self, sequence: Sequence) -> Generator[int, None, None]:
        """Its tokens as they are drawn; closing the iterator ends the sequence."""
        seen = 0
        try:
            while True:
                while seen < len(sequence.answer):
                    yield sequence.answer[seen]
                    seen += 1
                if sequence.error is not None:
                    raise sequence.error
                if sequence.finish_reason is not None:
                    return
                self._step_for(sequence, seen)
        finally:
            self.finish(sequence, "cancelled")

    def _step_for(self, sequence: Sequence, seen: int) -> None:
        """A step, unless another thread's step brought the token while we waited for the lock."""
        with self._lock:
            if len(sequence.answer) == seen and not sequence.is_finished:
                self.step()

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """What the model predicts after each token, [T, V]."""
        self._check_prompt(tokens)
        self._longest_answer(len(tokens), 0)
        with self._lock:
            blocks = self.pool.allocate(-(-len(tokens) // self.scheduler.block_size))
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
                self.pool.release(blocks)
        return np.concatenate(parts)

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
        capacity = self.pool.count * self.scheduler.block_size + 1  # the last one is not kept
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
