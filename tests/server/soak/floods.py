"""F10, F14: heads without end, sockets that send next to nothing, readers that read nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from .figures import Figure, all_of, at_most, percentile
from .target import Target, asked, completion, head_and_body, target

FLOODS = 300
SLOW_SOCKETS = 1000
CLOSED_SECONDS = 10.0 + 5.0  # a head's time, and what the machine is busy with
PAUSE = 2.0  # seconds between the bytes of a slow socket
HONEST = 8  # clients
MEMORY = 50  # MiB
SILENT_READERS = 16
SILENT_SECONDS = 30.0 + 10.0  # and what it takes until nothing more fits the sockets


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    with target(model) as served:
        return asyncio.run(_figures(served, scale, Random(seed)))


async def _figures(served: Target, scale: float, random: Random) -> list[Figure]:
    await _honest(served, asyncio.sleep(0.5))
    found = await _heads(served, max(4, int(FLOODS * scale)), random)
    found += await _slow_sockets(served, int(SLOW_SOCKETS * scale), 10 * scale)
    if scale >= 1:
        found += await _silent_readers(served)
    return found


async def _heads(served: Target, number: int, random: Random) -> list[Figure]:
    memory, refused = served.memory, 0
    for _ in range(number):
        reader, writer = await served.open()
        line = random.choice((b"X: " + b"a" * (1 << 20), b"GET /" + b"a" * (1 << 20),
                              b"".join(b"X-%d: a\r\n" % k for k in range(5000))))  # fmt: skip
        sent = line if line.startswith(b"GET") else b"GET /health HTTP/1.1\r\n" + line
        received = b""
        with suppress(ConnectionError):  # closed while it was being sent
            writer.write(sent)
            received = await asyncio.wait_for(reader.read(), CLOSED_SECONDS)
        refused += not received or received.startswith(b"HTTP/1.1 400")
        writer.close()
    return [
        all_of("F10 floods of header lines", refused, number, "refused or closed"),
        at_most("F10 memory of the floods", served.memory - memory, MEMORY, "MiB", is_timed=True),
    ]


async def _slow_sockets(served: Target, number: int, seconds: float) -> list[Figure]:
    alone = await _honest(served, asyncio.sleep(seconds))
    memory, started = served.memory, time.perf_counter()
    closed: list[float] = []

    async def dribble() -> None:
        reader, writer = await served.open()
        opened = time.perf_counter()
        with suppress(ConnectionError):
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
            for _ in range(int(CLOSED_SECONDS / PAUSE)):
                try:
                    await asyncio.wait_for(reader.read(1), PAUSE)
                    break
                except asyncio.TimeoutError:
                    writer.write(b"X")
        closed.append(time.perf_counter() - opened)
        writer.close()

    beside = await _honest(served, asyncio.gather(*(dribble() for _ in range(number))))
    took = time.perf_counter() - started
    p99 = percentile(beside, 0.99)
    in_time = sum(seconds < CLOSED_SECONDS for seconds in closed)
    name = f"F10 {number} slow sockets ({took:.0f} s)"
    return [
        all_of(f"{name}: closed after 10 s", in_time, number, "in time"),
        at_most(f"{name}: memory", served.memory - memory, MEMORY, "MiB", is_timed=True),
        at_most(
            f"{name}: an honest request, p99 {1e3 * p99:.0f} ms, to that alone",
            p99 / percentile(alone, 0.99),
            2,
            "×",
            is_timed=True,
        ),
    ]


async def _honest(served: Target, attack: Awaitable[Any]) -> list[float]:
    """Return the seconds of short requests that are made while something else goes on."""
    seconds: list[float] = []
    task = asyncio.ensure_future(attack)

    async def client() -> None:
        while not task.done():
            answer = await served.ask("POST", "/v1/completions", completion(8))
            assert answer.status == 200
            seconds.append(answer.seconds)

    await asyncio.gather(task, *(client() for _ in range(HONEST)))
    return seconds


async def _silent_readers(served: Target) -> list[Figure]:
    """Ask for long streams with much in them, and read nothing."""
    alone = await _gaps(served)
    memory = served.memory
    sockets = [_silent_socket(served.port) for _ in range(SILENT_READERS)]
    started = time.perf_counter()
    beside, peak = list[float](), memory
    while time.perf_counter() - started < SILENT_SECONDS:
        beside += await _gaps(served)
        peak = max(peak, served.memory)
    dropped = not await _busy(served)
    for each in sockets:
        each.close()
    name = f"F14 {SILENT_READERS} silent readers"
    p99, of_that_alone = percentile(beside, 0.99), percentile(alone, 0.99)
    kept = (peak - memory) * 1024 / SILENT_READERS
    return [
        at_most(f"{name}: memory of each", kept, 256, "KiB", is_timed=True),
        all_of(f"{name}: given up after 30 s", int(dropped), 1, "attacks"),
        at_most(
            f"{name}: between another's events, p99 {1e3 * p99:.1f} ms, to that alone",
            p99 / of_that_alone,
            1.1,
            "×",
            is_timed=True,
        ),
    ]


async def _busy(served: Target) -> bool:
    return (await served.figures())["cullama_requests_unfinished"] > 0


def _silent_socket(port: int) -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.connect(("127.0.0.1", port))
    body = completion(4000, stream=True, n=8, logprobs=20)
    opened.sendall(head_and_body("POST", "/v1/completions", body))
    return opened


async def _gaps(served: Target) -> list[float]:
    """Return the seconds between what comes of one stream."""
    arrivals: list[float] = []
    async with asked(served, completion(400, stream=True)) as (reader, _):
        while await reader.read(65536):
            arrivals.append(time.perf_counter())
    return [later - sooner for sooner, later in pairwise(arrivals)]
