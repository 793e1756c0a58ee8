"""Turns the tokens of one sample into text as they come, and into a completion at the end.

Tokens in, text out: complete characters only, and nothing of a stop string. It runs no engine;
generation.py reads the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ..engine.metrics import Metrics
from ..engine.request import FinishReason
from ..sampling.params import SamplingParams, TokenLogprobs
from .closable import Closable
from .completion import Completion, Timings
from .stop import StopStrings
from .token_texts import token_texts
from .tokenizer import NO_TOKENS, Detokenizer, Tokenizer


class _State(NamedTuple):
    """How far a sample is."""

    tokens: int
    pieces: int
    finish_reason: FinishReason


class OutputStream:
    """The text of one sample, and what a completion tells besides.

    One thread adds tokens; any may close it, after which its completion does not change.

    Attributes:
        prompt_tokens: how many the prompt has.
        token_ids, logprobs: of the tokens so far; no logprobs where none were asked for.
        stops: `stops.is_found` says that a stop string has come: nothing behind it is to be added.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        seed: int,
        end_ids: frozenset[int],
        tokenizer: Tokenizer | None,
        metrics: Metrics,
        shown: Mapping[int, str] = NO_TOKENS,
    ) -> None:
        self.cached_tokens = 0  # of the prompt, found in the prefix cache
        self.prompt_logprobs: Sequence[TokenLogprobs] = ()  # from the second token on
        self.prompt_tokens, self._seed, self._end_ids = len(prompt), seed, end_ids
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, list(prompt), shown) if tokenizer else None
        self._includes_stop = params.include_stop
        self.stops = StopStrings(params.stop, params.include_stop)
        self._has_logprobs = params.logprobs is not None
        self._has_prompt_logprobs = params.prompt_logprobs is not None
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self._pieces: list[str] = []
        self._piece_ends: list[int] = []  # how many tokens there were with each piece
        self._states = Closable(_State(0, 0, "cancelled"))
        self._started = time.perf_counter()
        self._first_token = self._ended = 0.0
        self._metrics, self._compiled_before = metrics, metrics.compile_seconds
        self._compiling = 0.0

    @property
    def is_closed(self) -> bool:
        return self._states.is_closed

    def add(
        self,
        token: int,
        logprobs: TokenLogprobs | None = None,
        reason: FinishReason | None = None,
    ) -> str:
        """Take a token; returns the text that is complete with it, none once it is closed.

        Args:
            reason: why the sample finishes with this token, if it does.
        """
        if not self.token_ids:
            self._first_token = time.perf_counter()
            self._compiling = self._metrics.compile_seconds - self._compiled_before
        self.token_ids.append(token)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        piece = ""
        is_text = token not in self._end_ids or self._includes_stop
        if self._detokenizer is not None and is_text:
            piece = self.stops.add(self._detokenizer.add(token))
        return self._keep(piece, reason or "cancelled")

    def take_logprobs(self) -> list[TokenLogprobs]:
        """Return those that came since the last call; they are no part of the completion any more,
        so that a long stream keeps only what was not sent."""
        taken, self.logprobs = self.logprobs, []
        return taken

    def finish(self, reason: FinishReason) -> str:
        """End the sample; returns the text held back in case it began a stop string."""
        piece = self._keep("" if reason == "error" else self.stops.flush(), reason)
        self.close()
        return piece

    def close(self) -> None:
        """End the sample as far as it is, from any thread; nothing comes behind it any more."""
        self._ended = self._ended or time.perf_counter()
        self._states.close()

    def _keep(self, piece: str, reason: FinishReason) -> str:
        """Add a piece of text, which may be empty; returns it unless the sample was closed."""
        if piece:
            self._pieces.append(piece)
            self._piece_ends.append(len(self.token_ids))
        reason = "stop" if self.stops.is_found else reason
        state = _State(len(self.token_ids), len(self._pieces), reason)
        return piece if self._states.advance(state) else ""

    def tokens_of(self, characters: int) -> int:
        """Return how many tokens it took to generate so many characters of the text."""
        lengths = accumulate(map(len, self._pieces))
        ends = zip(lengths, self._piece_ends, strict=False)
        return next(
            (tokens for length, tokens in ends if length >= characters), len(self.token_ids)
        )

    def _stop_reason(self, state: _State) -> str | int | None:
        if state.finish_reason != "stop":
            return None
        if self.stops.found is not None:
            return self.stops.found
        end = self.token_ids[state.tokens - 1] if state.tokens else None
        return end if end in self._end_ids else None  # None: nothing may follow in its grammar

    def completion(self) -> Completion:
        """Return what was generated so far."""
        state = self._states.latest
        first = self._first_token or self._ended or self._started
        logprobs = tuple(self.logprobs[: state.tokens]) if self._has_logprobs else None
        named = [
            token
            for each in (*self.prompt_logprobs, *self.logprobs)
            for token in (each.token_id, *(candidate for candidate, _ in each.top))
        ]
        is_scored = self._has_prompt_logprobs and (
            len(self.prompt_logprobs) == self.prompt_tokens - 1  # all of them
        )
        return Completion(
            text="".join(self._pieces[: state.pieces]),
            token_ids=tuple(self.token_ids[: state.tokens]),
            finish_reason=state.finish_reason,
            stop_reason=self._stop_reason(state),
            logprobs=logprobs,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            seed=self._seed,
            timings=Timings(
                first - self._started, (self._ended or first) - self._started, self._compiling
            ),
            token_texts=token_texts(self._tokenizer, named),
            prompt_logprobs=(None, *self.prompt_logprobs) if is_scored else None,
        )
