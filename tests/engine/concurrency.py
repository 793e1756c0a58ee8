"""Threads and event loops that cannot hang a test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from cullama import Stream

Result = TypeVar("Result")
PATIENCE = 20  # seconds until something that hangs is called hung


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def in_threads(*jobs: Callable[[], Result]) -> list[Result]:
    """What each returns, all at once; an error in one is raised here, and none may hang."""
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            results[index] = jobs[index]()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(jobs))
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "it hangs"
    return results


def in_a_loop(main: Callable[[], Awaitable[Result]]) -> Result:
    """`asyncio.run` in a thread: a loop that hangs is left behind."""

    async def run_main() -> Result:
        return await asyncio.wait_for(main(), PATIENCE)

    return in_threads(lambda: asyncio.run(run_main()))[0]


async def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    return condition()


async def read(stream: Stream) -> str:
    return "".join([piece async for piece in stream])
