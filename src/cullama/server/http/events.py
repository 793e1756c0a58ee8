"""Sends server-sent events, and gives up on clients that leave or read nothing.

A comment is sent whenever nothing else was for KEEP_ALIVE_SECONDS, from the start on, so that no
proxy and no client takes a long prompt for a dead connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .connection import ABORT

KEEP_ALIVE_SECONDS = 10.0
SEND_SECONDS = 30.0  # a client that reads nothing for so long is given up
KEEP_ALIVE = b": keep-alive\n\n"

Result = TypeVar("Result")


class ClientLeftError(Exception):
    """The client has closed the connection, or reads nothing: the answer has no reader."""


class EventStream(Response):
    """A response that sends what an asynchronous generator yields: whole events, as bytes.

    The generator is closed when the client leaves.

    Args:
        on_end: called at the end, however it comes: a generator that was never asked for an event
            does nothing when it is closed.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end
        self._last = time.monotonic()  # when something was last given to the connection
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await first_of(self._send_all(send), self._watch(send), _disconnect(receive))
        except ClientLeftError:
            if abort := scope.get(ABORT):
                abort()
                await asyncio.sleep(0)  # until the connection is lost
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await self._send(send, event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, event: bytes) -> None:
        self._is_sending, self._last = True, time.monotonic()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        self._is_sending = False

    async def _watch(self, send: Send) -> None:
        """Keep the connection alive; raises ClientLeftError where nothing is read."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_SECONDS / 10)
            silent = time.monotonic() - self._last
            if self._is_sending and silent > SEND_SECONDS:
                raise ClientLeftError
            if not self._is_sending and silent > KEEP_ALIVE_SECONDS:
                await self._send(send, KEEP_ALIVE)


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work gives, unless the client leaves first. Raises ClientLeftError."""
    return await first_of(work, _disconnect(request.receive))


async def first_of(
    work: Coroutine[Any, Any, Result], *watchers: Coroutine[Any, Any, Any]
) -> Result:
    """Return what the work gives; a watcher that raises before ends it. Cancels what is left."""
    task = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(watcher) for watcher in watchers]
    try:
        await asyncio.wait([task, *watching], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            for each in watching:
                if each.done():
                    each.result()
        return task.result()
    finally:
        for each in (task, *watching):
            each.cancel()
        await asyncio.gather(task, *watching, return_exceptions=True)
        # What is raised here refers to this frame: with the tasks that it comes from it would be a
        # cycle, and a request that its client left would stay until the garbage collector comes.
        del task, watching, each


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientLeftError


async def answer_nothing(request: Request, error: Exception) -> Response:
    """End a request whose client has left; what is returned is never sent."""
    return Response(status_code=499)
