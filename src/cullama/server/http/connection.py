"""Bounds what a connection may cost before a request's head is complete; uvicorn does not.

The body's bounds are in bodies.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import error_body

MAX_HEAD_BYTES = 16 << 10
MAX_HEADER_LINES = 100
HEAD_SECONDS = 10.0
MAX_BUFFERED = 16 << 10  # bytes for a client that reads slowly, beyond the socket's own
ABORT = "cullama.abort"  # in the scope: ends the connection, whatever is buffered

# uvicorn warns of every request that is no HTTP: whoever sends many would fill the log.
log = logging.getLogger("cullama.server.connection")
log.setLevel(logging.ERROR)


class BoundedProtocol(HttpToolsProtocol):
    """Ends connections whose heads are too large or take too long."""

    _deadline: asyncio.TimerHandle | None = None
    _is_in_head = True
    _head_bytes = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.logger = log

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(MAX_BUFFERED)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"the request's head has more than {MAX_HEAD_BYTES:,} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._end_head()
        self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        size = sum(len(each) + len(content) for each, content in self.headers)
        if len(self.headers) > MAX_HEADER_LINES or size > MAX_HEAD_BYTES:
            raise ValueError("too much")  # the parser gives up, and a 400 is sent

    def on_headers_complete(self) -> None:
        self._end_head()
        # Closing would wait for what is buffered, which a silent client never reads.
        scope: Any = self.scope
        scope[ABORT] = self.transport.abort
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        body = error_body(
            f"{msg.rstrip('.')}; expected an HTTP/1.1 request with a head of at most "
            f"{MAX_HEADER_LINES} lines and {MAX_HEAD_BYTES:,} bytes"
        )
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[400] + head % len(body) + body)
        self.transport.close()

    def _begin_head(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
