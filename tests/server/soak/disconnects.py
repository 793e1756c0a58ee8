"""F13: clients that leave at any moment, streaming or not, in the prompt phase too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from .figures import Figure, at_most, percentile
from .target import Target, asked, completion, target

DISCONNECTS = 10_000
AT_ONCE = 32
PROMPT = 1500  # tokens, of those that leave while it is read
MILLISECONDS = 100
SINGLE = 100  # clients that leave alone, to time how soon their requests end


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    with target(model) as served:
        return asyncio.run(_figures(served, scale, Random(seed)))


async def _figures(served: Target, scale: float, random: Random) -> list[Figure]:
    await served.ask("POST", "/v1/completions", completion(2))
    before, descriptors = await served.figures(), served.descriptors
    memory, number = served.memory, int(DISCONNECTS * scale)
    places = asyncio.Semaphore(AT_ONCE)

    async def leave() -> None:
        async with places:
            tokens = [random.randrange(3, 300) for _ in range(random.choice((4, PROMPT)))]
            body = completion(2000, stream=random.random() < 0.5, n=random.choice((1, 1, 3)))
            async with asked(served, {**body, "prompt": tokens}):
                await asyncio.sleep(random.expovariate(1 / 0.03))

    await asyncio.gather(*(leave() for _ in range(number)))
    await served.until_idle()
    alone = [await _leave_alone(served, streams) for streams in (True, False) for _ in range(
        max(1, int(SINGLE * scale)))]  # fmt: skip
    # The metrics are those of the last pass: one more, when all others have ended.
    await served.ask("POST", "/v1/completions", completion(2))
    after = await served.figures()
    step = 1e3 * after["cullama_step_seconds_sum"] / after["cullama_step_seconds_count"]
    name = f"F13 {number} disconnects"
    return [
        at_most(f"{name}: blocks left", after["cullama_blocks_referenced"], 0),
        at_most(f"{name}: requests left", after["cullama_requests_unfinished"], 0),
        at_most(f"{name}: tasks left", after["cullama_tasks"] - before["cullama_tasks"], 0),
        at_most(f"{name}: descriptors left", served.descriptors - descriptors, 0),
        at_most(f"{name}: engines lost", after["cullama_engine_restarts_total"], 0),
        at_most(f"{name}: memory", served.memory - memory, 50, "MiB", is_timed=True),
        *(
            at_most(
                f"F13 a request ends after its client, p{100 * share:.0f} (a step: {step:.0f} ms)",
                1e3 * percentile(alone, share),
                round(step + MILLISECONDS),
                "ms",
                is_timed=True,
            )
            for share in (0.5, 0.99)
        ),
    ]


async def _leave_alone(served: Target, is_stream: bool) -> float:
    """Leave in the middle of an answer; returns for how long the request went on."""
    async with asked(served, completion(4000, stream=is_stream)) as (reader, _):
        if is_stream:
            await reader.readuntil(b"data: ")
        while not (await served.figures())["cullama_requests_unfinished"]:
            await asyncio.sleep(0.002)
    return await served.until_idle()
