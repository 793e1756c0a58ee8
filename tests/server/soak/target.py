"""A server to attack, in processes of its own, and what can be known of it from outside (Linux)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cullama.benchmark.http.processes import ServerProcess

SECONDS = 120.0  # for anything to end; what takes longer is stuck
ONE_THREAD = ("--backend", "cpu:numpy", "--threads", "1")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Target:
    """One server, on 127.0.0.1."""

    def __init__(self, process: ServerProcess) -> None:
        self.process, self.port = process, process.port
        self.pid = process.process.pid

    # --- from outside --------------------------------------------------------------------------

    @property
    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(child) for each in tasks for child in each.read_text().split()]

    @property
    def zombies(self) -> int:
        return sum(state_of(child) == "Z" for child in self.children)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def memory(self) -> float:
        """Resident memory of the front, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    # --- by HTTP -------------------------------------------------------------------------------

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request, and wait for the whole answer."""
        started = time.perf_counter()
        reader, writer = await self.open()
        try:
            writer.write(head_and_body(method, path, body, headers))
            received = await asyncio.wait_for(reader.read(), SECONDS)
        finally:
            writer.close()
        head, _, content = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in lines[1:])
        if named.get("transfer-encoding") == "chunked":
            content = b"".join(re.findall(rb"(?s)[0-9a-f]+\r\n(.*?)\r\n", content))
        return Answer(int(lines[0].split()[1]), named, content, time.perf_counter() - started)

    async def figures(self) -> dict[str, float]:
        """Return what /metrics says, by name."""
        text = (await self.ask("GET", "/metrics")).body.decode()
        return {
            name: float(value)
            for name, value in re.findall(r"^(\w+)(?:{[^}]*})? (\S+)$", text, re.MULTILINE)
        }

    async def until_idle(self) -> float:
        """Wait until no request is left; returns the seconds that it took."""
        started = time.perf_counter()
        while (await self.figures())["cullama_requests_unfinished"]:
            if time.perf_counter() - started > SECONDS:
                return SECONDS
            await asyncio.sleep(0.002)
        return time.perf_counter() - started

    async def until_ready(self) -> float:
        """Wait until /health says ok; returns the seconds that it took."""
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            if (await self.ask("GET", "/health")).status == 200:
                break
            await asyncio.sleep(0.02)
        return time.perf_counter() - started


@contextmanager
def target(model: Path, *arguments: str) -> Iterator[Target]:
    """Serve a model until the block ends."""
    with ServerProcess(["--model", str(model), *ONE_THREAD, *arguments]) as process:
        process.wait_until_ready()
        yield Target(process)


def completion(tokens: int, **fields: Any) -> dict[str, Any]:
    """Return the body of a request for so many tokens."""
    return {"prompt": "Once", "max_tokens": tokens, "ignore_eos": True, **fields}


def head_and_body(
    method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    named = {"Host": "localhost", "Connection": "close", **(headers or {})}
    if body is not None:
        named |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content


@asynccontextmanager
async def asked(
    served: Target, body: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request for a completion; the connection is closed at the end of the block."""
    reader, writer = await served.open()
    try:
        writer.write(head_and_body("POST", "/v1/completions", body))
        yield reader, writer
    finally:
        writer.close()


def state_of(pid: int) -> str:
    """Return the letter of a process's state: Z has ended; "" is not there any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
