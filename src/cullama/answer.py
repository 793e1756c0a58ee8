"""Tokens become text: one request's answer while it is written, and the completion at its end.

It knows one sequence and its tokenizer; the CLI, a notebook and a server all read from here.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from .engine.engine import Engine
from .sampling import TokenLogprobs
from .sequence import FinishReason, Sequence
from .stop import StopStrings
from .token_texts import token_texts
from .tokenizer import Detokenizer, Tokenizer


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds."""

    first_token: float  # from the request to its first token
    total: float  # from the request to its end

    def decode_rate(self, tokens: int) -> float:
        """Tokens a second after the first one; 0 where there was none after it."""
        seconds = self.total - self.first_token
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0.0


@dataclass(frozen=True, repr=False)
class Completion:
    """An answer. `print` it for its text; at the end of a notebook's cell, it shows its tokens.

    Attributes:
        text: the complete characters of the answer, without the end token or stop string; empty
            where the model came without a tokenizer.
        token_ids: every token drawn, the end token included.
        finish_reason: "stop" (end token or stop string), "length" or "cancelled".
        logprobs: one entry a token where `SamplingParams.logprobs` asked for them.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of those, how many had been read before, for another text.
        seed: gives the same text again.
        timings: how long it took.
        alternatives: the other answers where `SamplingParams.n` is above 1.
        token_texts: what each token named in `logprobs` spells by itself, by its id; a part of a
            character is written as its bytes, `\\xe2`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None
    prompt_tokens: int
    cached_tokens: int
    seed: int
    timings: Timings
    alternatives: tuple[Completion, ...] = ()
    token_texts: Mapping[int, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        begun = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        others = f", {len(self.alternatives)} alternatives" if self.alternatives else ""
        return f"Completion({begun!r}, {len(self.token_ids)} tokens, {self.finish_reason}{others})"

    def _repr_html_(self) -> str:
        from .completion_page import notebook

        return notebook(self)


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


class Stream:
    """Iterate for the pieces of the answer; `completion` tells the rest once it has ended.

    `for` works in the thread that asks; `async for` leaves the work to a thread of the engine.
    Closing it, or letting go of it, ends the answer and returns its memory.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pieces = answer.pieces()
        # Also for a stream that nobody ever asked for a piece: its request is already under way.
        self._finish = weakref.finalize(self, answer.engine.finish, answer.sequence, "cancelled")

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        async with aclosing(self._answer.pieces_async()) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        self._pieces.close()
        self._finish()

    @property
    def completion(self) -> Completion:
        """What has been written so far."""
        return self._answer.completion()
