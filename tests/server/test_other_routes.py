"""/health, /v1/models, /props, /metrics, tokens and templates; and what is not offered."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from live_server import LiveServer, live_server
from prometheus_client.parser import text_string_to_metric_families

from cullama import LLM
from cullama.server.api.models import NOT_OFFERED
from cullama.server.process.engine import Status
from cullama.server.process.messages import Loading

TEXT = "The llama said: <|end|> 東京 🦙"


def test_the_served_model_is_listed(server: LiveServer) -> None:
    [model] = server.openai.models.list().data
    assert model.id == "tiny-chat"
    assert server.openai.models.retrieve("tiny-chat") == model
    assert server.http.get("/v1/models/another").status_code == 404


def test_a_path_that_no_route_has_is_answered_with_those_there_are(server: LiveServer) -> None:
    response = server.http.get("/api/generate")
    assert response.status_code == 404
    routes = response.json()["error"]["message"].partition("expected one of ")[2].split(", ")
    assert {"/v1/models/{name}", "/v1/streams/{id}", "/v1/chat/completions"} <= {*routes}
    assert len(routes) == len({*routes})


def test_health_says_why_requests_are_not_taken(chat_model: Path) -> None:
    with live_server(chat_model) as live:
        assert live.http.get("/health").json() == {"status": "ok", "reason": "", "progress": None}
        os.kill(live.service.engine.pid, signal.SIGKILL)
        while (response := live.http.get("/health")).status_code == 200:
            time.sleep(0.01)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["status"] == "restarting"
        assert "SIGKILL" in response.json()["reason"]
        refused = live.post("/v1/completions", {"prompt": "a"})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        live.service.engine.wait_until_ready(60)
        assert live.http.get("/health").status_code == 200
        assert live.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_health_tells_how_many_weights_were_read(chat_model: Path) -> None:
    with live_server(chat_model) as live:
        engine = live.service.engine
        engine.status = Status("loading", "the model is being loaded")
        assert live.http.get("/health").json()["progress"] is None
        engine._take_other(Loading(3, 8))
        response = live.http.get("/health")
        assert response.status_code == 503
        assert response.json() == {
            "status": "loading",
            "reason": "the model is being loaded: 37 %",
            "progress": {"model": "tiny-chat", "done": 3, "total": 8},
        }


def test_props_tell_model_device_and_defaults(server: LiveServer, local: LLM) -> None:
    props = server.http.get("/props").json()
    assert props["model"] == "tiny-chat"
    assert props["context_length"] == local.context_length
    assert props["default_params"]["temperature"] == local.default_params.temperature
    assert "cpu" in props["description"]
    assert props["has_chat_template"]


def test_metrics_count_what_was_done(server: LiveServer) -> None:
    def figures() -> dict[str, float]:
        text = server.http.get("/metrics").text
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.labels
        }

    before = figures()
    body = {"prompt": "Once", "max_tokens": 5, "ignore_eos": True}
    used = server.post("/v1/completions", body).json()["usage"]
    after = figures()
    drawn = after["cullama_drawn_tokens_total"] - before["cullama_drawn_tokens_total"]
    assert drawn == used["completion_tokens"] == 5
    assert after["cullama_steps_total"] > before["cullama_steps_total"]
    assert after["cullama_step_seconds_count"] > before["cullama_step_seconds_count"]
    assert after["cullama_ready"] == 1
    assert after["cullama_requests_unfinished"] == 0


@pytest.mark.parametrize("add_special", [False, True])
@pytest.mark.parametrize("parse_special", [False, True])
def test_a_text_becomes_the_librarys_tokens_and_a_text_again(
    server: LiveServer, local: LLM, add_special: bool, parse_special: bool
) -> None:
    body = {"content": TEXT, "add_special": add_special, "parse_special": parse_special}
    ids = server.post("/tokenize", body).json()["tokens"]
    assert ids == local.tokenizer.encode(TEXT, add_special, parse_special)
    text = server.post("/detokenize", {"tokens": ids}).json()["content"]
    assert text == "<|begin|>" * add_special + TEXT


def test_the_pieces_of_a_text_add_up_to_it(server: LiveServer) -> None:
    body = {"content": "The old clock", "with_pieces": True}
    tokens = server.post("/tokenize", body).json()["tokens"]
    assert "".join(token["piece"] for token in tokens) == "The old clock"


def test_a_conversation_is_shown_as_the_model_reads_it(server: LiveServer, local: LLM) -> None:
    messages = [{"role": "user", "content": "Say <|end|>"}]
    shown = server.post("/apply-template", {"messages": messages}).json()
    assert shown["tokens"] == local.chat_format.encode(local.chat_format.write(messages))
    assert shown["prompt"].count("<|end|>") == 2  # the message's own is text, not this token
    assert shown["tokens"].count(1) == 1


@pytest.mark.parametrize("path", list(NOT_OFFERED))
def test_what_is_not_offered_says_so_in_words(server: LiveServer, path: str) -> None:
    response = server.post(path, {})
    assert response.status_code == 501
    assert "not offered" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"  # OpenAI's clients do so after a 5xx


def test_an_unknown_route_names_those_there_are(server: LiveServer) -> None:
    response = server.http.get("/v2/chat")
    assert response.status_code == 404
    assert "/v1/chat/completions" in response.json()["error"]["message"]
    assert server.http.get("/v1/completions").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/completions", "POST"),
        ("POST", "/v1/streams/cmpl-1", "DELETE, GET"),
        ("DELETE", "/v1/models/a/b", "GET"),
        ("PUT", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_answered_with_those_it_has(
    server: LiveServer, method: str, path: str, allowed: str
) -> None:
    response = server.http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert allowed in response.json()["error"]["message"]
