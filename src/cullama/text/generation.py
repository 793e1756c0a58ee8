"""Reads an engine's tokens and makes text of them: all at once, with `for`, or with `async for`.

One loop, `_generate`, serves all three. It does not wait itself: it hands out the text that is
complete, and in between the handle that has to be waited for, which a thread and an event loop do
each in their own way. It uses the engine through its interface alone (engine/client.py).
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from ..engine.client import EngineClient, GenerationRequest, RequestHandle
from ..process.interrupts import INTERRUPTS
from .completion import Completion
from .output import OutputStream
from .tokenizer import NO_TOKENS, Tokenizer


class Piece(NamedTuple):
    """Text that one of the samples has got, which is empty where it only ended."""

    sample: int  # its place in the list
    text: str
    is_last: bool = False


Event: TypeAlias = Piece | RequestHandle  # text, or the handle to be waited for


class Sample(NamedTuple):
    """One sample while it is generated: the handle its tokens come from, and their text."""

    handle: RequestHandle
    output: OutputStream


def submit(
    engine: EngineClient,
    request: GenerationRequest,
    tokenizer: Tokenizer | None,
    shown: Mapping[int, str] = NO_TOKENS,
) -> list[Sample]:
    """Submit a request and return its n samples. Raises what `EngineClient.submit` raises.

    Args:
        shown: the control tokens that are part of the text, as for `Detokenizer`.
    """
    before = [*request.prompt, *request.answer]
    handles = engine.submit(request)
    try:
        return [
            Sample(
                handle,
                OutputStream(
                    *(before, request.params, handle.seed, handle.end_ids, tokenizer),
                    engine.metrics,
                    shown,
                ),
            )
            for handle in handles
        ]
    except BaseException:  # without their samples nothing would cancel them
        for handle in handles:
            handle.cancel()
        raise


def generate(
    samples: Sequence[Sample], before_step: Callable[[], None] = lambda: None
) -> list[Completion]:
    """Generate all samples together, in this thread; returns their completions."""
    with closing(_generate(samples)) as events:
        for event in events:
            if not isinstance(event, Piece):
                before_step()
                event.wait()
    return [sample.output.completion() for sample in samples]


async def generate_async(samples: Sequence[Sample]) -> AsyncGenerator[list[Piece], None]:
    """Generate all samples in an event loop; yields what each wait has brought, of all samples,
    which may be no text: a part of a prompt's prefill, or of a character.

    Where tokens come faster than pieces are taken, a piece has the text of several. Closing the
    generator cancels the samples that have not ended.
    """
    pieces: list[Piece] = []
    has_waited = False
    with closing(_generate(samples)) as events:
        for event in events:
            if isinstance(event, Piece):
                last = pieces[-1] if pieces else None
                if last is not None and last.sample == event.sample and not event.is_last:
                    pieces[-1] = Piece(event.sample, last.text + event.text)
                else:
                    pieces.append(event)
                continue
            if pieces or has_waited:
                yield pieces
                pieces = []
            await event.wait_async()
            has_waited = True
    yield pieces


class Stream:
    """Iterate for the pieces of the answer; `completion` is what has been generated so far.

    `for` runs the engine in the calling thread; `async for` lets a thread of the engine run it.
    Closing the stream, or dropping it, cancels the request and frees its cache blocks. `close` may
    be called from any thread, and again: the iteration ends there, with the completion as it was.

    `with llm.stream(…) as stream: …` closes it at its end; leaving an `async for` early does, too.

    Args:
        finish: makes the completion that is shown of what was generated.
    """

    def __init__(
        self, sample: Sample, *, finish: Callable[[Completion], Completion] = lambda it: it
    ) -> None:
        self._sample, self._finish = sample, finish
        self._finished: Completion | None = None
        self._pieces = _read(sample)
        # Also for a stream that was never iterated over: its request is running already.
        self._cancel = weakref.finalize(self, sample.handle.cancel)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        with closing(_generate([self._sample])) as events:
            for event in events:
                if not isinstance(event, Piece):
                    await event.wait_async()
                elif event.text:
                    yield event.text

    def close(self) -> None:
        self._sample.output.close()
        self._cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def completion(self) -> Completion:
        """What has been generated so far."""
        completion = self._sample.output.completion()
        if self._finished != completion:
            self._finished = self._finish(completion)
        return replace(completion, message=self._finished.message)  # whose calls keep their ids


def _read(sample: Sample) -> Generator[str, None, None]:
    # No method: a generator that held the stream would keep it from being dropped.
    with closing(_generate([sample])) as events:
        for event in events:
            if not isinstance(event, Piece):
                event.wait()
            elif event.text:
                yield event.text


def _generate(samples: Sequence[Sample]) -> Generator[Event, None, None]:
    """Read all samples to their ends; closing the generator cancels those that have not ended."""
    running = dict(enumerate(samples))
    try:
        while True:
            for number, sample in list(running.items()):
                handle, output = sample.handle, sample.output
                if output.is_closed:  # by another thread
                    del running[number]
                    continue
                new = handle.read()
                if not new.token_ids and new.finish_reason is None:
                    continue
                output.cached_tokens = new.cached_tokens
                output.prompt_logprobs = new.prompt_logprobs or output.prompt_logprobs
                for index, token in enumerate(new.token_ids):
                    is_last = index + 1 == len(new.token_ids)  # the reason is known with its piece
                    piece = output.add(
                        token,
                        new.logprobs[index] if new.logprobs else None,
                        new.finish_reason if is_last else None,
                    )
                    if output.stops.is_found:
                        handle.cancel("stop")
                    if piece:
                        yield Piece(number, piece)
                    if output.stops.is_found:
                        break
                if new.finish_reason is None and not output.stops.is_found:
                    continue
                del running[number]
                was_closed = output.is_closed
                yield Piece(number, output.finish(new.finish_reason or "stop"), is_last=True)
                if new.error is not None and not output.stops.is_found and not was_closed:
                    raise new.error
            if not running:
                return
            yield next(iter(running.values())).handle
    finally:
        with INTERRUPTS.deferred:  # or the samples behind it would go on
            for sample in samples:
                sample.output.close()
                sample.handle.cancel()
