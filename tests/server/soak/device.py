"""F18, F19: a GPU that is lost while requests run, and memory that there is too little of.

The GPU is emulated, and made to fail from outside: see injection/sitecustomize.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cullama.benchmark.http.processes import ServerProcess

from .figures import Figure, all_of, at_most, percentile
from .target import Target, completion, target

LOSSES, REFUSALS, LOADS = 36, 20, 12
CLIENTS = 4
TOKENS = 6  # of an answer
# Of each step, in which a lost GPU is noticed; "kernel" is one that fails while it runs.
CALLS = (
    *("cuMemcpyHtoDAsync", "cuLaunchKernel", "kernel", "cuMemcpyDtoHAsync"),
    *("cuEventRecord", "cuEventSynchronize"),
)
CODES = (*range(700, 703), 704, 705, *range(708, 720))  # those that the driver's manual has
STRIKE_SECONDS = 30.0
PROMPTS = [[5 + k, 40, 41, 42 + k] for k in range(CLIENTS)]
OPTIONS = ("--dtype", "float32", "--cache-tokens", "512", "--context", "128")


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    del seed
    with _emulated(model) as (served, faults):
        found = asyncio.run(_losses(served, faults, max(1, int(LOSSES * scale))))
        found += asyncio.run(_refusals(served, faults, max(1, int(REFUSALS * scale))))
    found.append(_loads(model, max(1, int(LOADS * scale))))
    with target(model, "--deterministic", "--cache-tokens", "256") as served:
        found += asyncio.run(_preemptions(served))
    return found


@contextmanager
def _emulated(model: Path) -> Iterator[tuple[Target, Path]]:
    """Serve a model on the emulated GPU; yields it, and the file that injects faults."""
    with tempfile.TemporaryDirectory() as folder:
        faults = Path(folder) / "faults"
        paths = [str(Path(__file__).parent / "injection"), os.environ.get("PYTHONPATH", "")]
        named = {"PYTHONPATH": os.pathsep.join(paths), "CULLAMA_SOAK_FAULTS": str(faults)}
        with patch.dict(os.environ, named):
            arguments = ["--model", str(model), "--backend", "emulated", *OPTIONS]
            with ServerProcess(arguments) as process:
                process.wait_until_ready()
                yield Target(process), faults


async def _ask(served: Target, prompt: list[int], tokens: int = TOKENS) -> tuple[int, Any]:
    """Return the status, and the tokens or the error."""
    body = {**completion(tokens, temperature=0, return_token_ids=True), "prompt": prompt}
    answer = await served.ask("POST", "/v1/completions", body)
    if answer.status != 200:
        return answer.status, answer.json["error"]["message"]
    return 200, answer.json["choices"][0]["token_ids"]


# --- F18 -----------------------------------------------------------------------------------------


async def _losses(served: Target, faults: Path, losses: int) -> list[Figure]:
    """Lose the GPU under load, at each call of a step, with each of the driver's codes."""
    expected = [(await _ask(served, prompt))[1] for prompt in PROMPTS]
    seen = {"right": 0, "refused": 0, "error": 0}
    wrong: list[Any] = []
    named = replaced = 0
    back: list[float] = []
    async with _clients(served, expected, seen, wrong):
        for turn in range(losses):
            # An engine that was lost before it gave a token, three times in a row, is given up.
            answered, waited = seen["right"], time.perf_counter()
            while seen["right"] == answered and time.perf_counter() - waited < STRIKE_SECONDS:
                await asyncio.sleep(0.02)
            call, code = CALLS[turn % len(CALLS)], CODES[turn % len(CODES)]
            before = (await served.figures())["cullama_engine_restarts_total"]
            faults.write_text(f"{call}:{1 + turn % 3}:{code}")
            started, reasons = time.perf_counter(), set()
            while time.perf_counter() - started < STRIKE_SECONDS:
                reasons.add((await served.ask("GET", "/health")).json["reason"])
                if (await served.figures())["cullama_engine_restarts_total"] > before:
                    replaced += 1
                    reasons.add((await served.ask("GET", "/health")).json["reason"])
                    break
                await asyncio.sleep(0.005)
            named += any("DeviceLostError" in reason for reason in reasons)
            back.append(await served.until_ready())
    await served.until_idle()
    said = ", ".join(f"{number} {name}" for name, number in seen.items())
    return [
        all_of("F18 the GPU lost at a call of a step: engine replaced", replaced, losses, "times"),
        all_of("F18 the cause named by /health", int(named), losses, "times"),
        at_most(f"F18 answers with another token ({said})", len(wrong), 0),
        at_most("F18 zombies", served.zombies, 0),
        at_most("F18 back after, p50", percentile(back, 0.5), 10, "s", is_timed=True),
    ]


@asynccontextmanager
async def _clients(
    served: Target, expected: list[Any], seen: dict[str, int], wrong: list[Any]
) -> AsyncIterator[None]:
    """Ask again and again, and compare each answer."""
    is_over = False

    async def client(number: int) -> None:
        while not is_over:
            status, found = await _ask(served, PROMPTS[number])
            if status == 200 and found == expected[number]:
                seen["right"] += 1
            elif status == 200:
                wrong.append(found)
            else:
                seen["refused" if status == 503 else "error"] += 1
                await asyncio.sleep(0.05)

    clients = [asyncio.ensure_future(client(number)) for number in range(CLIENTS)]
    yield
    is_over = True
    await asyncio.gather(*clients)


# --- F19 -----------------------------------------------------------------------------------------


async def _refusals(served: Target, faults: Path, refusals: int) -> list[Figure]:
    """Refuse the n-th allocation of a new process while a larger batch comes."""
    expected = [(await _ask(served, prompt))[1] for prompt in PROMPTS]
    clear = right = works = 0
    for turn in range(refusals):
        for child in served.children:  # whose memory has grown already
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        await asyncio.sleep(0.1)
        await served.until_ready()
        faults.write_text(f"cuMemAlloc:{1 + turn % 4}:2")
        while faults.exists():
            await asyncio.sleep(0.01)
        large = [_ask(served, [7 + turn, *range(50, 110)], 4), *(_ask(served, p) for p in PROMPTS)]
        answers = await asyncio.gather(*large)
        clear += all(status == 200 or "Error" in found for status, found in answers)
        answered = zip(answers[1:], expected, strict=True)
        right += all(status != 200 or found == tokens for (status, found), tokens in answered)
        faults.write_text("")
        while faults.exists():
            await asyncio.sleep(0.01)
        works += await _ask(served, PROMPTS[0]) == (200, expected[0])
    await served.until_idle()
    figures = await served.figures()
    return [
        all_of("F19 an allocation refused: answers or errors in words", clear, refusals, "times"),
        all_of("F19 tokens beside it as without it", right, refusals, "times"),
        all_of("F19 the next request", works, refusals, "answered"),
        at_most("F19 blocks left", figures["cullama_blocks_referenced"], 0),
    ]


def _loads(model: Path, loads: int) -> Figure:
    """Refuse all allocations from the n-th on while the model is loaded."""
    clear = 0
    for turn in range(loads):
        command = [sys.executable, "-m", "cullama", "serve", str(model), "--port", "0", *OPTIONS]
        named = {**os.environ, "CULLAMA_EMULATION_FAULTS": f"cuMemAlloc:{1 + turn}+:2"}
        ended = subprocess.run(
            [*command, "--backend", "emulated"],
            env=named,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        last = ended.stderr.strip().splitlines()[-1:]
        is_clear = ended.returncode == 1 and "has no room for" in "".join(last)
        clear += is_clear and "Traceback" not in ended.stderr
    return all_of("F19 no memory while the model is loaded", clear, loads, "end with one line")


async def _preemptions(served: Target) -> list[Figure]:
    """Run more requests than the cache has room for."""
    expected = [await _ask(served, prompt, 90) for prompt in PROMPTS]
    found = await asyncio.gather(*(_ask(served, prompt, 90) for prompt in PROMPTS))
    preempted = (await served.figures())["cullama_preemptions_total"]
    return [
        all_of(
            "F19 answers that gave up their blocks, as alone",
            sum(one == other for one, other in zip(found, expected, strict=True)),
            len(PROMPTS),
            "equal",
        ),
        all_of("F19 requests were preempted", int(preempted > 0), 1, "time or more"),
    ]
