"""The engine's own records of requests, for tests that look at what the face does not show."""

from __future__ import annotations

from collections.abc import Iterator

from cullama import SamplingParams, Stream
from cullama.engine.client import GenerationRequest
from cullama.engine.engine import Engine, EngineHandle
from cullama.engine.request import Request


def submit_to(
    engine: Engine, prompt: list[int], params: SamplingParams, priority: int = 0
) -> list[Request]:
    """Submit a request; returns the records of its n samples."""
    handles = engine.submit(GenerationRequest(prompt, params, priority))
    return [handle.request for handle in handles]


def tokens_of(engine: Engine, request: Request) -> Iterator[int]:
    """The tokens of a request as they are drawn; leaving the loop cancels it."""
    try:
        while True:
            new = engine.read(request)
            yield from new.token_ids
            if new.error is not None:
                raise new.error
            if new.finish_reason is not None:
                return
            engine.wait(request)
    finally:
        engine.cancel(request)


def request_of(stream: Stream) -> Request:
    handle = stream._sample.handle
    assert isinstance(handle, EngineHandle)
    return handle.request
