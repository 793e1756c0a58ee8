"""News of samples: firsts and ends at once, what is in between together."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from cullama.engine.request import FinishReason
from cullama.server.process.delivery import DELIVERY_SECONDS, Delivery
from cullama.server.process.handle import RemoteHandle


def give(handle: RemoteHandle, token: int, reason: FinishReason | None = None) -> None:
    handle.add([token], (), 0, reason, None, ())


def handle() -> RemoteHandle:
    return RemoteHandle(0, 1, frozenset(), threading.Condition(), lambda reason: None)


async def wait(sample: RemoteHandle) -> list[int]:
    await sample.wait_async()
    return [*sample.read().token_ids]


async def started(*coroutines: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    await asyncio.sleep(0)  # until each of them waits
    return tasks


def test_a_first_token_and_an_end_are_told_at_once() -> None:
    async def main() -> None:
        delivery, sample = Delivery(), handle()
        for token, reason in ((5, None), (6, "length")):
            delivery._last = time.monotonic() + 3600  # nothing else is due
            [task] = await started(wait(sample))
            give(sample, token, reason)  # type: ignore[arg-type]
            delivery.add(sample, is_urgent=True)
            delivery.deliver()
            assert await asyncio.wait_for(task, 10) == [token]

    asyncio.run(main())


def test_what_comes_in_between_is_told_together_once_it_is_due() -> None:
    async def main() -> None:
        delivery, samples = Delivery(), [handle(), handle()]
        delivery._last = time.monotonic() + 3600
        tasks = await started(*map(wait, samples))
        for token in (5, 6, 7):
            for sample in samples:
                give(sample, token)
                delivery.add(sample, is_urgent=False)
            delivery.deliver()
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)
        assert delivery.seconds_left(0.25) == 0.25
        delivery._last = time.monotonic() - DELIVERY_SECONDS
        assert delivery.seconds_left(0.25) == 0
        delivery.deliver()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [[5, 6, 7]] * 2
        assert delivery.seconds_left(0.25) == 0.25  # nothing is left

    asyncio.run(main())
