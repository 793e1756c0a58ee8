"""Requests that fail between their submission and the making of their answer are cancelled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from live_server import LiveServer

from cullama.chat.tools.answers import AnswerForm
from cullama.server.api import chat, completions, responses
from cullama.text.output import OutputStream

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "n": 2}
ROUTES: dict[str, tuple[str, dict[str, Any], Any, str]] = {
    "chat": ("/v1/chat/completions", CHAT, chat, "_ChatAnswer"),
    "completions": ("/v1/completions", {"prompt": ["Hi", "Hm"]}, completions, "_CompletionAnswer"),
    "responses": ("/v1/responses", {"input": "Hi"}, responses, "_ResponseAnswer"),
}


def fail(*given: object, **named: object) -> None:
    raise RuntimeError("injected")


def check_nothing_is_left(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    response = server.post(path, {**body, "ignore_eos": True})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the request failed; see the server's log"
    deadline = time.monotonic() + 10
    while server.service.engine.num_running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.service.engine.num_running == 0


@pytest.mark.parametrize("route", list(ROUTES))
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_made_cancels_its_samples(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, route: str, stream: bool
) -> None:
    path, body, module, name = ROUTES[route]
    monkeypatch.setattr(module, name, fail)
    check_nothing_is_left(server, path, {**body, "stream": stream})


@pytest.mark.parametrize("route", ["chat", "responses"])
def test_a_parser_that_cannot_be_made_cancels_its_samples(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    path, body, *_ = ROUTES[route]
    monkeypatch.setattr(AnswerForm, "parser", fail)
    check_nothing_is_left(server, path, body)


@pytest.mark.parametrize("route", list(ROUTES))
def test_a_text_that_cannot_be_begun_cancels_its_request(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    path, body, *_ = ROUTES[route]
    monkeypatch.setattr(OutputStream, "__init__", fail)
    check_nothing_is_left(server, path, body)
