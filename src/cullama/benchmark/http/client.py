"""Asks a server for many streams at once, and times what comes: a process of its own.

So its own cost does not hide in the server's or the engine's, and is measured beside them. It reads
tasks as lines of JSON and answers each with one; it looks at no more of a stream than its times and
its count of tokens.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...errors import CullamaError

TIMEOUT_SECONDS = 3600.0
TAIL_BYTES = 4096  # the end of a stream: the last chunk, with the usage
USAGE = re.compile(rb'"completion_tokens":(\d+)')


class Stream(asyncio.Protocol):
    """One request for a streamed completion.

    Attributes:
        arrivals: when something came, in seconds of `time.perf_counter`.
        ended: set at the end, to the number of tokens that the server counted.
    """

    def __init__(self, body: bytes) -> None:
        self._request = (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._tail = b""
        self.arrivals: list[float] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(self) -> None:
        self.sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.arrivals or b"data: " in data:  # else the head, or a comment
            self.arrivals.append(time.perf_counter())
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        usage = USAGE.search(self._tail)
        if error is not None or usage is None or b"data: [DONE]" not in self._tail:
            words = self._tail[-300:].decode(errors="replace")
            self.ended.set_exception(CullamaError(f"a stream was cut short: {words or error}"))
        else:
            self.ended.set_result(int(usage[1]))


async def ask(port: int, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Send all requests at once, over connections that are open already; wait for their ends.

    Returns the seconds from the first request to the last byte, and of each stream its tokens, the
    seconds to its first one, and those between two arrivals.
    """
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    for body in bodies:
        _, stream = await loop.create_connection(partial(Stream, body), "127.0.0.1", port)
        streams.append(stream)
    start = time.perf_counter()
    for stream in streams:
        stream.begin()
    tokens = await asyncio.wait_for(
        asyncio.gather(*(stream.ended for stream in streams)), TIMEOUT_SECONDS
    )
    return {
        "seconds": time.perf_counter() - start,
        "tokens": tokens,
        "first": [stream.arrivals[0] - stream.sent for stream in streams],
        "gaps": [
            later - sooner
            for stream in streams
            for sooner, later in zip(stream.arrivals, stream.arrivals[1:], strict=False)
        ],
    }


def main() -> None:
    """Answer each line of standard input: {"port", "bodies"}."""
    for line in sys.stdin:
        task = json.loads(line)
        bodies = [json.dumps(body).encode() for body in task["bodies"]]
        before = time.process_time()
        try:
            answer = asyncio.run(ask(task["port"], bodies))
        except (CullamaError, OSError, asyncio.TimeoutError) as error:
            answer = {"error": str(error) or type(error).__name__}
        answer["cpu"] = time.process_time() - before
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
