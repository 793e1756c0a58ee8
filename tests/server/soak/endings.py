"""F16, F17, F20: signals, an engine process that is killed again and again, and NaN."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from .figures import Figure, all_of, at_most, percentile
from .target import SECONDS, Target, asked, completion, state_of, target

KILLS = 100
CLIENTS = 8
RUNNING = 8  # streams when the signal comes
NAN_TOKEN = 7  # of the model of F20: its embedding is NaN


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    del seed
    found = [*_signals(model)]
    started = time.perf_counter()
    with target(model) as served:
        load = time.perf_counter() - started
        found += asyncio.run(_kills(served, max(2, int(KILLS * scale)), load))
    return found


def nan_figures(model: Path, scale: float, seed: int) -> list[Figure]:
    """Attack a model in which the embedding of NAN_TOKEN is NaN."""
    del scale, seed
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / "model"
        shutil.copytree(model, damaged)
        tensors = load_file(damaged / "model.safetensors")
        tensors["model.embed_tokens.weight"][NAN_TOKEN] = np.nan
        save_file(tensors, damaged / "model.safetensors")
        with target(damaged) as served:
            return asyncio.run(_nan(served))


# --- F16 -----------------------------------------------------------------------------------------


def _signals(model: Path) -> list[Figure]:
    with target(model) as served:
        children = served.children
        refused, ended, took = asyncio.run(_end(served, seconds_of_answers=True))
        left = _left(children)
    with target(model) as served:
        children = served.children
        _, _, second = asyncio.run(_end(served, seconds_of_answers=False))
        left += _left(children)
    return [
        all_of("F16 SIGTERM: new requests", refused, 10, "refused"),
        all_of("F16 SIGTERM: running streams", ended, RUNNING, "finish, or end with an error"),
        at_most("F16 SIGTERM: from the last answer to the end", took, 2, "s", is_timed=True),
        at_most("F16 a second SIGTERM: to the end", second, 1, "s", is_timed=True),
        at_most("F16 engine processes left", left, 0),
    ]


async def _end(served: Target, seconds_of_answers: bool) -> tuple[int, int, float]:
    """Send SIGTERM while streams run, and again unless they may end.

    Returns how many new requests were refused, how many streams ended as they should, and the
    seconds until the process had ended.
    """
    begun = asyncio.Semaphore(0)

    async def stream() -> bool:
        tokens = 300 if seconds_of_answers else 4000
        received = b""
        async with asked(served, completion(tokens, stream=True)) as (reader, _):
            with suppress(asyncio.IncompleteReadError):
                received = await reader.readuntil(b"data: ")
                begun.release()
                received += await asyncio.wait_for(reader.read(), SECONDS)
        return b"data: [DONE]" in received

    streams = [asyncio.ensure_future(stream()) for _ in range(RUNNING)]
    for _ in streams:
        await asyncio.wait_for(begun.acquire(), SECONDS)
    served.process.process.send_signal(signal.SIGTERM)
    started = time.perf_counter()
    refused = 0
    if seconds_of_answers:
        await asyncio.sleep(0.3)  # until the signal has arrived
        for _ in range(10):
            try:
                refused += (await served.ask("GET", "/v1/models")).status == 503
            except (OSError, IndexError):  # no connection, or one that was closed
                refused += 1
    else:
        await asyncio.sleep(0.3)
        served.process.process.send_signal(signal.SIGTERM)
        started = time.perf_counter()
    found = await asyncio.gather(*streams, return_exceptions=True)
    if seconds_of_answers:
        started = time.perf_counter()
    await asyncio.to_thread(served.process.process.wait, SECONDS)
    return refused, sum(each is True for each in found), time.perf_counter() - started


def _left(pids: list[int]) -> int:
    """Return how many of the processes are there a second later; one that has ended is not."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and any(state_of(pid) not in "ZX" for pid in pids):
        time.sleep(0.02)
    return sum(state_of(pid) not in "ZX" for pid in pids)


# --- F17 -----------------------------------------------------------------------------------------


async def _kills(served: Target, kills: int, load: float) -> list[Figure]:
    """Kill the engine process under load; `load` is how long the server took to start."""
    outcomes = {"finished": 0, "refused": 0, "error": 0}
    stuck: list[str] = []
    is_over = False

    async def client(number: int) -> None:
        while not is_over:
            body = completion(60, stream=True, temperature=number % 2, seed=number)
            try:
                async with asked(served, body) as (reader, _):
                    received = await asyncio.wait_for(reader.read(), SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                stuck.append(repr(error))
                return
            if b"data: [DONE]" in received:
                outcomes["error" if b'"error"' in received else "finished"] += 1
            elif received.startswith(b"HTTP/1.1 503"):
                outcomes["refused"] += 1
                await asyncio.sleep(0.05)
            else:
                stuck.append(received[-200:].decode(errors="replace"))

    clients = [asyncio.ensure_future(client(number)) for number in range(CLIENTS)]
    back: list[float] = []
    for _ in range(kills):
        # An engine that was lost before it gave a token, three times in a row, is given up.
        answered, waited = outcomes["finished"], time.perf_counter()
        while outcomes["finished"] == answered and time.perf_counter() - waited < SECONDS:
            await asyncio.sleep(0.05)
        for child in served.children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        started = time.perf_counter()
        await asyncio.sleep(0.1)  # until it has been noticed
        await served.until_ready()
        back.append(time.perf_counter() - started)
    is_over = True
    await asyncio.gather(*clients)
    await served.until_idle()
    said = ", ".join(f"{number} {name}" for name, number in outcomes.items())
    restarts = (await served.figures())["cullama_engine_restarts_total"]
    return [
        all_of("F17 the engine killed: replaced", int(restarts), kills, "times"),
        at_most(f"F17 {kills} kills: stuck or cut short ({said})", len(stuck), 0),
        at_most(f"F17 {kills} kills: zombies", served.zombies, 0),
        at_most(f"F17 {kills} kills: processes beyond one", len(served.children) - 1, 0),
        at_most(
            f"F17 {kills} kills: back after, p50 {percentile(back, 0.5):.1f} s, at most",
            max(back),
            round(load + 5, 1),
            "s",
            is_timed=True,
        ),
    ]


# --- F20 -----------------------------------------------------------------------------------------


async def _nan(served: Target) -> list[Figure]:
    prompt = list(range(100, 164))  # two blocks of the KV cache

    async def ask(tokens: list[int], number: int) -> tuple[int, int, int]:
        body = {**completion(number, temperature=0), "prompt": tokens}
        answer = await served.ask("POST", "/v1/completions", body)
        if answer.status != 200:
            return answer.status, 0, 0
        usage = answer.json["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return answer.status, usage["completion_tokens"], cached

    sick = [*prompt, NAN_TOKEN, *prompt, 50]
    others = [asyncio.ensure_future(ask([*prompt[k:], 60 + k], 200)) for k in range(4)]
    failed = [await ask(sick, 20) for _ in range(3)]
    finished = await asyncio.gather(*others)
    after = await ask([*prompt, *prompt, 51], 20)
    text = (await served.ask("POST", "/v1/completions", {**completion(20), "prompt": sick})).body
    return [
        all_of("F20 NaN rows", sum(status == 500 for status, *_ in failed), 3, "end with an error"),
        at_most("F20 tokens of them", sum(tokens for _, tokens, _ in failed), 0),
        all_of("F20 others meanwhile", sum(t == 200 for _, t, _ in finished), 4, "finish"),
        all_of("F20 the next request", int(after[:2] == (200, 20)), 1, "answered"),
        all_of("F20 the error", int(b"NumericalError" in text), 1, "named"),
    ]
