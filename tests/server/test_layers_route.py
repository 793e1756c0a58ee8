"""POST /layers: the library's figures over HTTP, beside other requests, one at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import LiveServer, live_server

from cullama import LLM
from cullama.errors import EngineUnavailableError, QueueFullError
from cullama.server.api.layers import MAX_TOKENS

TOKENS = [0, 40, 41, 42, 43]


def test_the_answer_has_the_librarys_figures(server: LiveServer, local: LLM) -> None:
    assert server.http.get("/props").json()["has_layers"]
    body = server.http.post("/layers", json={"tokens": TOKENS, "token": 44, "top": 3}).json()
    expected = local.token_layers(TOKENS, 44, count=3)
    assert [each["layer"] for each in body["layers"]] == [
        None,
        *range(len(expected.states) - 1),
    ]
    for found, state in zip(body["layers"], expected.states, strict=True):
        assert (found["probability"], found["rank"]) == (state.probability, state.rank)
        assert [(each["id"], each["probability"]) for each in found["top"]] == state.top
    weights = expected.attention.mean(axis=1)
    for found, row in zip(body["layers"][1:], weights, strict=True):
        most = found["looked_at"]
        assert [each["weight"] for each in most] == sorted(row.tolist(), reverse=True)[:3]
        assert all(row[each["position"]] == each["weight"] for each in most)
        assert all(TOKENS[each["position"]] == each["id"] for each in most)
    assert body["looked_at"][0]["weight"] == pytest.approx(float(weights.mean(axis=0).max()))
    assert body["piece"] == local.tokenizer.decode([44])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tokens": [], "token": 4}, "tokens"),
        ({"tokens": [4], "token": 99_999}, "the token"),
        ({"tokens": [99_999], "token": 4}, "the prompt"),
        ({"tokens": [4] * (MAX_TOKENS + 1), "token": 4}, "expected at most 8192"),
        ({"tokens": [4] * MAX_TOKENS, "token": 4}, "context"),
        ({"tokens": [4], "token": 4, "top": 21}, "top"),
        ({"tokens": [4], "token": 4, "layer": 2}, "unknown field 'layer'"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_by_name(
    server: LiveServer, body: dict[str, Any], words: str
) -> None:
    response = server.http.post("/layers", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_answers_are_written_beside_it_and_are_the_same(server: LiveServer) -> None:
    asked = {"prompt": TOKENS, "max_tokens": 200, "seed": 5, "ignore_eos": True}
    alone = server.post("/v1/completions", asked).json()["choices"][0]["text"]
    answers: list[str] = []
    writer = threading.Thread(
        target=lambda: answers.append(
            server.post("/v1/completions", asked).json()["choices"][0]["text"]
        )
    )
    writer.start()
    looks = 0
    while writer.is_alive() and looks < 1000:
        status = server.http.post("/layers", json={"tokens": TOKENS, "token": 44}).status_code
        assert status == 200
        looks += 1
    writer.join()
    assert answers == [alone]
    assert looks > 0


async def _cancelled(server: LiveServer, tokens: list[int]) -> None:
    """Ask for two at once, then leave the first."""
    engine = server.service.engine
    first = asyncio.ensure_future(engine.token_layers(tokens, 44, 3))
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="another token's layers"):
        await engine.token_layers(tokens, 44, 3)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await engine.token_layers(TOKENS, 44, 3)).token == 44


def test_one_is_looked_at_at_a_time_and_a_client_that_leaves_makes_room(
    server: LiveServer,
) -> None:
    asyncio.run(_cancelled(server, TOKENS * 40))
    assert server.service.engine._answers == {}


def test_a_client_that_leaves_ends_it_in_the_engine_process(server: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/layers", json={"tokens": TOKENS * 100, "token": 44}, timeout=0.001
        )
    response = server.http.post("/layers", json={"tokens": TOKENS, "token": 44})
    deadline = time.monotonic() + 30
    while response.status_code == 429 and time.monotonic() < deadline:
        response = server.http.post("/layers", json={"tokens": TOKENS, "token": 44})
    assert response.status_code == 200


def test_a_process_that_ends_meanwhile_is_an_error_in_words(chat_model: Path) -> None:
    async def ask(live: LiveServer) -> None:
        os.kill(live.service.engine.pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(live.service.engine.token_layers(TOKENS, 44, 3))
        await asyncio.sleep(0.05)
        os.kill(live.service.engine.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailableError, match="SIGKILL"):
            await asked

    with live_server(chat_model) as live:
        asyncio.run(ask(live))
