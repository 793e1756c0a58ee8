"""Answers of a given form over HTTP: schemas, expressions, grammars and choices."""

from __future__ import annotations

import json
import re
import threading
from typing import Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from live_server import LiveServer
from pydantic import BaseModel, Field

from cullama import LLM, SamplingParams

MESSAGES: Any = [{"role": "user", "content": "Once upon a time"}]
CHAT: Any = {"model": "tiny-chat", "messages": MESSAGES, "seed": 3}
TEXT: Any = {"model": "tiny-chat", "prompt": "Once upon a time", "seed": 3}
SCHEMA: Any = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "k": {"enum": ["a", "b"]}},
    "required": ["n", "k"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "pair", "schema": SCHEMA, "strict": True, "description": "Two."},
}
FORMS: dict[str, Any] = {
    "json_schema": {"response_format": FORMAT},
    "of llama.cpp": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "regex": {"regex": "[ab]{3}"},
    "grammar": {"grammar": 'start: "see " /[a-z]{2}/'},
    "choice": {"choice": ["yes", "no", "東京"]},
}


def check_form(name: str, text: str) -> None:
    if name in ("json_schema", "of llama.cpp"):
        Draft202012Validator(SCHEMA).validate(json.loads(text))
    elif name == "choice":
        assert text in FORMS["choice"]["choice"]
    else:
        assert re.fullmatch("[ab]{3}" if name == "regex" else "see [a-z]{2}", text)


@pytest.mark.parametrize("name", FORMS)
def test_chat_completions_have_the_form_that_is_asked_for(server: LiveServer, name: str) -> None:
    answer = server.post("/v1/chat/completions", {**CHAT, **FORMS[name], "n": 2}).json()
    for choice in answer["choices"]:
        check_form(name, choice["message"]["content"])
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("name", FORMS)
def test_completions_have_the_form_that_is_asked_for(server: LiveServer, name: str) -> None:
    answer = server.post("/v1/completions", {**TEXT, **FORMS[name], "logprobs": 1}).json()
    [choice] = answer["choices"]
    check_form(name, choice["text"])
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("name", FORMS)
def test_streams_have_the_form_that_is_asked_for(server: LiveServer, name: str) -> None:
    events = server.events("/v1/chat/completions", {**CHAT, **FORMS[name]})
    choices = [choice for event in events for choice in event["choices"]]
    check_form(name, "".join(each["delta"].get("content") or "" for each in choices))
    assert choices[-1]["finish_reason"] == "stop"


def test_an_answer_is_that_of_the_library(server: LiveServer, local: LLM) -> None:
    answer = server.openai.chat.completions.create(**CHAT, response_format=FORMAT, max_tokens=40)
    expected = local.chat(MESSAGES, SamplingParams(json_schema=SCHEMA, seed=3, max_tokens=40))
    assert answer.choices[0].message.content == expected.text


class Pair(BaseModel):
    n: int = Field(ge=0, le=9)
    k: Literal["a", "b"]
    inner: list[bool] = Field(max_length=2)


def test_the_openai_client_parses_an_answer_into_a_pydantic_model(server: LiveServer) -> None:
    answer = server.openai.chat.completions.parse(**CHAT, response_format=Pair, max_tokens=60)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Pair)
    assert len(parsed.inner) <= 2


def test_the_openai_client_parses_a_stream_into_a_pydantic_model(server: LiveServer) -> None:
    with server.openai.chat.completions.stream(
        **CHAT, response_format=Pair, max_tokens=60
    ) as stream:
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Pair)


def test_any_object_is_an_object_or_cut_off(server: LiveServer) -> None:
    body = {**CHAT, "response_format": {"type": "json_object"}, "max_tokens": 60}
    [choice] = server.post("/v1/chat/completions", body).json()["choices"]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def with_schema(schema: Any) -> Any:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }


# What is asked for, the field that is at fault, and a word of the message.
REFUSED: dict[str, tuple[Any, str, str]] = {
    "not": (with_schema({"not": {}}), "response_format", "'not'"),
    "unique": (
        with_schema({"properties": {"a": {"uniqueItems": True}}}),
        "response_format",
        "/properties/a/uniqueItems",
    ),
    "look-around": (
        with_schema({"type": "string", "pattern": "(?=a)"}),
        "response_format",
        "pattern",
    ),
    "nothing": (
        with_schema({"type": "integer", "minimum": 2, "maximum": 1}),
        "response_format",
        "minimum",
    ),
    "circle": (with_schema({"$ref": "#"}), "response_format", "json_schema"),
    "elsewhere": (with_schema({"$ref": "http://127.0.0.1/x"}), "response_format", "$ref"),
    "guidance": (with_schema({"x-guidance": {"lenient": True}}), "response_format", "x-guidance"),
    "symbols": (
        with_schema({"properties": {f"p{index}": {} for index in range(3500)}}),
        "response_format",
        "json_schema",
    ),
    "bytes": (with_schema({"const": "x" * 70_000}), "response_format", "bytes"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format", "missing"),
    "no name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "missing",
    ),
    "type": ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
    "unknown": (
        {"response_format": {"type": "text", "x": 1}},
        "response_format.x",
        "unknown field",
    ),
    "regex": ({"regex": "("}, "regex", "unclosed"),
    "grammar": ({"grammar": "start: x"}, "grammar", "unknown"),
    "json in grammar": ({"grammar": 'start: %json {"not": {}}'}, "grammar", "'not'"),
    "choice": ({"choice": []}, "choice", "at least 1"),
    "two": ({"regex": "a", "choice": ["a"]}, "choice", "expected one"),
    "stop": ({"regex": "a+", "stop": "b"}, "stop", "leave one"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_400_and_names_the_field(
    server: LiveServer, case: str, stream: bool
) -> None:
    wishes, param, words = REFUSED[case]
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        response = server.post(path, {**body, **wishes, "stream": stream})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        assert words in error["message"]


def test_the_openai_client_gets_a_bad_request(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.openai.chat.completions.create(**CHAT, **with_schema({"not": {}}))
    assert caught.value.param == "response_format"


def test_requests_beside_one_whose_schema_takes_long_are_not_held_up(server: LiveServer) -> None:
    """1,000 optional properties take half a second to compile, in the front and in the engine."""
    large = with_schema({"properties": {f"p{index}": {"type": "null"} for index in range(900)}})
    statuses: list[int] = []

    def ask_for_much() -> None:
        body = {**CHAT, **large, "max_tokens": 5}
        statuses.append(server.post("/v1/chat/completions", body).status_code)

    asking = threading.Thread(target=ask_for_much)
    asking.start()
    answered_before = 0
    while asking.is_alive() and answered_before < 500:
        server.post("/v1/completions", {**TEXT, "max_tokens": 1})
        answered_before += asking.is_alive()
    asking.join(30)
    assert statuses == [200]
    assert answered_before >= 3


def test_a_client_that_leaves_while_its_schema_is_compiled_is_forgotten(server: LiveServer) -> None:
    large = with_schema({"properties": {f"q{index}": {"type": "null"} for index in range(900)}})
    with pytest.raises(openai.APITimeoutError):
        server.openai.with_options(timeout=0.05).chat.completions.create(**CHAT, **large)
    for _ in range(100):
        server.post("/v1/completions", {**TEXT, "max_tokens": 1})
        if server.service.engine.num_running == 0:
            break
    assert server.service.engine.num_running == 0


def test_a_form_beside_tools_that_may_be_called_is_refused(server: LiveServer) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    for name in ("json_schema", "regex"):
        body = {**CHAT, **FORMS[name], "tools": [tool]}
        error = server.post("/v1/chat/completions", body).json()["error"]
        assert error["param"] == ("response_format" if name == "json_schema" else name)
        answer = server.post("/v1/chat/completions", {**body, "tool_choice": "none"})
        check_form(name, answer.json()["choices"][0]["message"]["content"])
