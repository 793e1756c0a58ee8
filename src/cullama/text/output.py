"""Tokens become text: one request's answer while it is written, and the completion at its end.

It knows one sequence and its tokenizer; the CLI, a notebook and a server all read from here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterator

from ..engine.engine import Engine
from ..engine.sequence import Sequence
from ..sampling.params import TokenLogprobs
from .completion import Completion, Timings
from .stop import StopStrings
from .token_texts import token_texts
from .tokenizer import Detokenizer, Tokenizer


class Answer:
    """One sequence's text as it comes."""

    def __init__(self, engine: Engine, sequence: Sequence, tokenizer: Tokenizer | None) -> None:
        self.engine, self.sequence = engine, sequence
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, sequence.prompt) if tokenizer else None
        self._stops = StopStrings(sequence.params.stop)
        self._pieces: list[str] = []
        self._tokens = 0  # of the sequence's answer, taken in here
        self._started = time.perf_counter()
        self._first_token = self._ended = 0.0

    def take(self, token: int) -> str:
        """The text a new token adds; ends the sequence where that completes a stop string."""
        self._tokens += 1
        if not self._first_token:
            self._first_token = time.perf_counter()
        if self._detokenizer is None or token in self.sequence.end_ids:
            return ""
        piece = self._stops.add(self._detokenizer.add(token))
        if self.is_complete:
            self.engine.finish(self.sequence, "stop")
        return self._keep(piece)

    @property
    def is_complete(self) -> bool:
        """A stop string has come: what may have been drawn after it is nobody's."""
        return self._stops.is_found

    def end(self) -> str:
        """The text held back in case it began a stop string."""
        self._ended = time.perf_counter()
        return self._keep(self._stops.flush())

    def pieces(self) -> Generator[str, None, None]:
        """The text as it is written; closing the iterator ends the sequence."""
        tokens = self.engine.tokens(self.sequence)
        try:
            for token in tokens:
                if piece := self.take(token):
                    yield piece
                if self.is_complete:
                    break
            if piece := self.end():
                yield piece
        finally:
            self._ended = self._ended or time.perf_counter()
            tokens.close()

    async def pieces_async(self) -> AsyncGenerator[str, None]:
        """The same for an event loop."""
        tokens = self.engine.tokens_async(self.sequence)
        try:
            async for token in tokens:
                if piece := self.take(token):
                    yield piece
                if self.is_complete:
                    break
            if piece := self.end():
                yield piece
        finally:
            self._ended = self._ended or time.perf_counter()
            await tokens.aclose()

    def completion(self) -> Completion:
        sequence = self.sequence
        first = self._first_token or self._ended or self._started
        reason = sequence.finish_reason or "cancelled"
        if self.is_complete:
            reason = "stop"
        elif self._tokens < sequence.drawn and sequence.error is None:
            reason = "cancelled"  # it may have been written to its end; it was not read so far
        asked = sequence.params.logprobs is not None
        logprobs = tuple(sequence.logprobs[: self._tokens]) if asked else None
        return Completion(
            text="".join(self._pieces),
            token_ids=tuple(sequence.answer[: self._tokens]),
            finish_reason=reason,
            logprobs=logprobs,
            prompt_tokens=sequence.prompt_length,
            cached_tokens=sequence.cached,
            seed=sequence.seed,
            timings=Timings(first - self._started, (self._ended or first) - self._started),
            token_texts=token_texts(self._tokenizer, _named(logprobs or ())),
        )

    def _keep(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece


def _named(logprobs: tuple[TokenLogprobs, ...]) -> Iterator[int]:
    for each in logprobs:
        yield each.token_id
        yield from (token for token, _ in each.top)
