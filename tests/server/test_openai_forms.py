"""The check of answers against OpenAI's forms finds what their client would not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from live_server import LiveServer
from openai.types.chat import ChatCompletion
from openai_forms import check_answer, check_event
from pydantic import ValidationError

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 3, "logprobs": True}


def without_one(value: Any, names: set[str]) -> Iterator[Any]:
    """Yield copies that lack one field, at any depth."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            for changed in without_one(each, names):
                yield [*value[:index], changed, *value[index + 1 :]]
    elif isinstance(value, dict):
        for name, each in value.items():
            if name in names:
                yield {key: value[key] for key in value if key != name}
            for changed in without_one(each, names):
                yield {**value, name: changed}


REQUIRED = {
    *("id", "object", "created", "model", "choices", "index", "message", "delta", "role"),
    *("content", "refusal", "logprobs", "finish_reason", "token", "logprob", "bytes"),
    *("top_logprobs", "prompt_tokens", "completion_tokens", "total_tokens"),
}


def test_an_answer_that_lacks_a_field_is_found(server: LiveServer) -> None:
    answer = server.post(CHAT, BODY).json()
    damaged = list(without_one(answer, REQUIRED))
    assert len(damaged) > 20
    for each in damaged:
        ChatCompletion.construct(**each)  # OpenAI's client takes them all
        with pytest.raises((ValidationError, AssertionError, KeyError)):
            check_answer(CHAT, each)


@pytest.mark.parametrize("name", ["object", "choices", "index", "delta", "finish_reason"])
def test_an_event_that_lacks_a_field_is_found(server: LiveServer, name: str) -> None:
    for event in server.events(CHAT, BODY):
        for each in without_one(event, {name}):
            with pytest.raises((ValidationError, AssertionError, KeyError)):
                check_event(CHAT, each)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("created",), "yesterday"),
        (("choices", 0, "index"), "0"),
        (("choices", 0, "finish_reason"), "ended"),
        (("choices", 0, "message", "role"), "user"),
        (("choices", 0, "logprobs", "content", 0, "logprob"), None),
        (("usage", "total_tokens"), 1.5),
    ],
)
def test_an_answer_whose_field_is_of_another_type_is_found(
    server: LiveServer, path: tuple[Any, ...], value: Any
) -> None:
    answer = copy.deepcopy(server.post(CHAT, BODY).json())
    *way, last = path
    place = answer
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(ValidationError):
        check_answer(CHAT, answer)
