"""Keeps the events of streams whose clients may lose the connection and come back for the rest.

A stored stream runs on without a reader for ALONE_SECONDS, and can be read for KEPT_SECONDS after
its end. What is kept is bounded in number and in bytes; nothing is written to disk. When a stream
grows beyond that, its oldest events are dropped: who follows it has them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice

from .errors import ApiError, error_object

ALONE_SECONDS = 60.0
KEPT_SECONDS = 600.0
SWEEP_SECONDS = 5.0
MAX_STREAMS = 256
MAX_BYTES = 4 << 20  # of one stream


class StoredStream:
    """Takes events from a generator as they come; any number of readers follow.

    Attributes:
        num_events: how many came.
        num_dropped: how many of these, from the beginning on, are not kept any more.
        is_ended: whether nothing will come any more.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self.num_events, self.num_dropped = 0, 0
        self.is_ended = False
        self._events: deque[bytes] = deque()  # each with its number as SSE's id, from 1 on
        self.last_used = time.monotonic()
        self._num_readers, self._num_bytes = 0, 0
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._take(events))

    @property
    def alone(self) -> float:
        """For how many seconds nobody has been reading."""
        return 0.0 if self._num_readers else time.monotonic() - self.last_used

    def check_start(self, start: int) -> None:
        """Raises ApiError: events behind the first `start` ones were dropped."""
        if start < self.num_dropped:
            words = f"the first {self.num_dropped:,} events are not kept any more"
            raise ApiError(410, f"{words}, expected from to be at least that", "from")

    async def read(self, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the events from number `start` + 1 on, and follow until the end."""
        self._num_readers += 1
        try:
            while True:
                if start < self.num_dropped:  # it has read too slowly
                    yield _ending("events were dropped", "stream_too_long")
                    return
                new = list(islice(self._events, start - self.num_dropped, None))
                start = max(start, self.num_events)
                if new:
                    yield b"".join(new)
                elif self.is_ended:
                    return
                else:
                    await self._changed.wait()
        finally:
            self._num_readers -= 1
            self.last_used = time.monotonic()

    def cancel(self) -> None:
        """End the request; readers get what came before, and an error."""
        self._task.cancel()

    async def _take(self, events: AsyncGenerator[bytes, None]) -> None:
        try:
            async with aclosing(events):
                async for block in events:
                    self._add(block)
        except asyncio.CancelledError:  # told, or clients would come back for the rest for ever
            words = f"the stream was cancelled, or not read for {ALONE_SECONDS:.0f} s"
            self._add(_ending(words, "cancelled"))
        finally:
            self.is_ended, self.last_used = True, time.monotonic()
            self._wake()

    def _add(self, block: bytes) -> None:
        for event in block.split(b"\n\n")[:-1]:
            self.num_events += 1
            self._events.append(b"id: %d\n%b\n\n" % (self.num_events, event))
            self._num_bytes += len(self._events[-1])
        while self._num_bytes > MAX_BYTES and len(self._events) > 1:
            self._num_bytes -= len(self._events.popleft())
            self.num_dropped += 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()  # readers wait for what comes after this


def _ending(words: str, code: str) -> bytes:
    error = {"error": error_object(words, code=code)}
    return b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(error).encode()


class StoredStreams:
    """All stored streams of a server, by id."""

    def __init__(self) -> None:
        self._streams: dict[str, StoredStream] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def ids(self) -> list[str]:
        return list(self._streams)

    def check_room(self) -> None:
        """Raises ApiError: too many are kept already."""
        self._drop_old()
        if len(self._streams) >= MAX_STREAMS:
            raise ApiError(429, f"{MAX_STREAMS} streams are kept already; try again later")

    def add(self, id: str, events: AsyncGenerator[bytes, None]) -> StoredStream:
        """Start a stream."""
        stream = self._streams[id] = StoredStream(events)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.ensure_future(self._sweep())
        return stream

    def get(self, id: str) -> StoredStream:
        """Return a stream. Raises ApiError: there is none of that id any more."""
        stream = self._streams.get(id)
        if stream is None:
            kept = f"streams with resumable: true are kept for {KEPT_SECONDS:.0f} s after their end"
            raise ApiError(404, f"there is no stream {id[:80]!r}; {kept}")
        return stream

    def _drop_old(self) -> None:
        for id, stream in list(self._streams.items()):
            if stream.alone > (KEPT_SECONDS if stream.is_ended else ALONE_SECONDS):
                stream.cancel()
                if stream.is_ended:
                    del self._streams[id]

    async def _sweep(self) -> None:
        while self._streams:
            await asyncio.sleep(SWEEP_SECONDS)
            self._drop_old()
