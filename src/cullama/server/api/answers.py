"""What the answers of chat completions and completions share: streams, usage, timings."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

from pydantic_core import to_json

from ...chat.tools.events import Event, ParsedAnswer
from ...chat.tools.parser import AnswerParser
from ...text.completion import Completion
from ...text.generation import Piece, Sample, generate_async
from ...text.tokenizer import Tokenizer
from ..http.errors import api_error, error_object
from ..process.handle import RemoteHandle

DONE = b"data: [DONE]\n\n"
WRITE_BYTES = 16 << 10

Json: TypeAlias = dict[str, Any]
MakeChoices: TypeAlias = Callable[[Piece, Sample], list[Json]]


def event(value: Json) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"  # 12 times as fast as the standard library's


class Answer:
    """The samples of one HTTP request: n of each prompt, prompt after prompt.

    Args:
        parsers: what reads the answers, where they may be more than a text.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        n: int,
        tokenizer: Tokenizer,
        parsers: Sequence[AnswerParser] = (),
    ) -> None:
        self.samples, self.n, self.tokenizer, self.parsers = samples, n, tokenizer, parsers
        self._events: list[list[Event]] = [[] for _ in samples]
        self._reported = [0] * len(samples)  # tokens that were named in chunks
        self._prefilled = [0] * len(samples)  # tokens of prompts that were told of

    @property
    def request_id(self) -> int:
        """Of the first sample's request, as /engine lists it."""
        handle = self.samples[0].handle
        assert isinstance(handle, RemoteHandle)
        return handle.id

    async def complete(self, head: Json, choice: Callable[[int, Completion], Json]) -> Json:
        """Generate all samples to their ends, and return the whole answer."""
        async with aclosing(generate_async(self.samples)) as steps:
            async for pieces in steps:
                for piece in pieces:
                    self._events[piece.sample] += self.read(piece)
        completions = [sample.output.completion() for sample in self.samples]
        return {
            **head,
            "choices": [choice(index, each) for index, each in enumerate(completions)],
            "usage": self.usage(),
            "timings": timings(completions[0]),
        }

    def parsed(self, sample: int, before: Sequence[Event] = ()) -> ParsedAnswer:
        """Return what a sample has become as a whole, behind what its answer began with."""
        return ParsedAnswer.of([*before, *self._events[sample]])

    def read(self, piece: Piece) -> list[Event]:
        """Return what a piece says; a sample ends where the one call has come that is allowed."""
        if not self.parsers:
            return []
        parser = self.parsers[piece.sample]
        events = parser.add(piece.text, piece.is_last)
        if parser.is_done and not piece.is_last:
            self.samples[piece.sample].handle.cancel("stop")
        return events

    async def stream(
        self,
        head: Json,
        choices: MakeChoices,
        first: Sequence[Json] = (),
        with_usage: bool = False,
        progress: Json | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a streamed answer, those of one pass of the model together.

        Args:
            head: the fields that all chunks have.
            choices: makes the choices that chunks tell of, each in one.
            first: what chunks say before anything is generated.
            with_usage: count the tokens in a last chunk; the others then say `"usage": null`.
            progress: the choice, but for its index, of chunks that tell how far prompts are read;
                None sends none.
        """
        if with_usage:
            head = {**head, "usage": None}
        try:
            if first:
                yield b"".join(event({**head, **each}) for each in first)
            async with aclosing(generate_async(self.samples)) as steps:
                async for pieces in steps:
                    chunks: list[Json] = []
                    if progress is not None:
                        chunks += [{**head, **each} for each in self._progress(progress)]
                    for piece in pieces:
                        sample = self.samples[piece.sample]
                        chunks += [{**head, "choices": [it]} for it in choices(piece, sample)]
                        if piece.is_last:
                            chunks[-1]["timings"] = timings(sample.output.completion())
                    for events in _writes(map(event, chunks)):
                        yield events
            if with_usage:
                yield event({**head, "choices": [], "usage": self.usage()})
        except Exception as error:
            refusal = api_error(error)
            yield event(
                {
                    "error": error_object(
                        refusal.message, refusal.status, refusal.param, refusal.code
                    )
                }
            )
        finally:
            for sample in self.samples:  # also where none of them was read yet
                sample.handle.cancel()
        yield DONE

    def _progress(self, choice: Json) -> Iterator[Json]:
        """Yield how far each prompt is that came further, in the form of llama.cpp's server."""
        for index in range(0, len(self.samples), self.n):
            handle, output = self.samples[index]
            assert isinstance(handle, RemoteHandle)
            total = output.prompt_tokens
            processed = total if output.token_ids else handle.prefilled
            if processed > self._prefilled[index]:
                self._prefilled[index] = processed
                figures = {
                    "total": total,
                    "cache": handle.cached_tokens,
                    "processed": processed,
                    "time_ms": round(1000 * (time.monotonic() - handle.times.admitted)),
                }
                yield {"choices": [{"index": index, **choice}], "prompt_progress": figures}

    def new_tokens(self, sample: int) -> slice:
        """Return which of a sample's tokens no chunk has told of yet."""
        start = self._reported[sample]
        self._reported[sample] = end = len(self.samples[sample].output.token_ids)
        return slice(start, end)

    def usage(self) -> Json:
        completions = [sample.output.completion() for sample in self.samples]
        prompts = completions[:: self.n]
        prompt_tokens = sum(each.prompt_tokens for each in prompts)
        answer_tokens = sum(len(each.token_ids) for each in completions)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer_tokens,
            "total_tokens": prompt_tokens + answer_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in prompts)},
            "completion_tokens_details": {
                "reasoning_tokens": sum(
                    sample.output.tokens_of(parser.reasoning_length)
                    for sample, parser in zip(self.samples, self.parsers, strict=False)
                    if parser.reasoning_length
                )
            },
        }


def _writes(events: Iterable[bytes]) -> Iterator[bytes]:
    """Join events, up to where a client that does not read has to be waited for."""
    joined = b""
    for each in events:
        joined += each
        if len(joined) > WRITE_BYTES:
            yield joined
            joined = b""
    if joined:
        yield joined


def timings(completion: Completion) -> Json:
    """Return the speed of one answer, as llama.cpp's server names it."""
    took = completion.timings
    computed = completion.prompt_tokens - completion.cached_tokens
    return {
        "cache_n": completion.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": round(1000 * took.first_token, 3),
        "prompt_per_second": round(computed / took.first_token, 3) if took.first_token else 0.0,
        "predicted_n": len(completion.token_ids),
        "predicted_ms": round(1000 * (took.total - took.first_token), 3),
        "predicted_per_second": round(completion.decode_rate, 3),
    }


def finish_reason(completion: Completion) -> str:
    """Return OpenAI's word for it; to them, an answer that was cancelled has stopped."""
    return "length" if completion.finish_reason == "length" else "stop"
