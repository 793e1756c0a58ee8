"""F15: ten times as many requests as the model can answer, for a minute."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from .figures import Figure, all_of, at_most, percentile
from .target import Answer, Target, completion, target

TIMES = 10
SECONDS = 60.0
TOKENS = 100  # of a sample
SAMPLES = 8  # of a request
WAITING = 16
PLACES = 256 + WAITING  # samples that run or wait


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    del seed
    with target(model, "--max-waiting", str(WAITING)) as served:
        return asyncio.run(_figures(served, scale))


async def _figures(served: Target, scale: float) -> list[Figure]:
    tokens, warm = max(20, int(TOKENS * scale)), PLACES // SAMPLES // 2

    def ask() -> asyncio.Task[Answer]:
        body = completion(tokens, n=SAMPLES)
        return asyncio.ensure_future(served.ask("POST", "/v1/completions", body))

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(warm)))
    interval = (time.perf_counter() - started) / warm / TIMES
    # All places are taken first: from then on the server is as busy as it will be.
    tasks = [ask() for _ in range(PLACES // SAMPLES)]
    await asyncio.sleep(0.5)
    full, memory = len(tasks), [served.memory]
    start = time.perf_counter()
    while (now := time.perf_counter() - start) < SECONDS * scale:
        due = int(now / interval) - (len(tasks) - full)
        tasks += [ask() for _ in range(due)]
        await asyncio.sleep(0.01)
        memory.append(served.memory)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    answered = [each for each in answers if isinstance(each, Answer)]
    refused = [each for each in answered if each.status in (429, 503)]
    third = len(memory) // 3
    growth = max(memory[-third:]) - max(memory[third : 2 * third] or memory)
    name = f"F15 {TIMES} × overload ({len(tasks)} requests, {len(refused)} refused)"
    good = sum(each.status in (200, 429, 503) for each in answered)
    return [
        all_of(f"{name}: answered", good, len(tasks), "by 200, 429 or 503"),
        all_of(
            f"{name}: Retry-After",
            sum("retry-after" in each.headers for each in refused),
            len(refused),
            "refusals",
        ),
        at_most(f"{name}: memory in the last third", growth, 10, "MiB", is_timed=True),
        *(
            at_most(
                f"{name}: a refusal, p{100 * share:.0f}",
                1e3 * percentile([each.seconds for each in refused], share),
                50,
                "ms",
                is_timed=True,
            )
            for share in (0.5, 0.99)
        ),
    ]
