"""docs/api-parameters.md says of every field of OpenAI's requests what the server does with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chat
from openai.types.responses import response_create_params as of_responses

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api-parameters.md"
ROW = re.compile(r"^\| `(\w+)` \| (works|no effect|refused) \|", re.MULTILINE)

CHAT: Any = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
LONG = "once upon a time " * 300  # leaves less than 500 tokens of the context
TOOL = {"type": "function", "function": {"name": "f"}}
# Of each route: its heading, its path, OpenAI's type, and a body that works.
ROUTES: dict[str, tuple[str, Any, Any]] = {
    "Chat completions": ("/v1/chat/completions", of_chat, CHAT),
    "Completions": ("/v1/completions", of_completions, {"prompt": "a", "max_tokens": 1}),
    "Responses": ("/v1/responses", of_responses, {"input": "a", "max_output_tokens": 1}),
}
# A value that is taken, where it is not 1, and what else it needs.
TAKEN: dict[str, Any] = {
    "background": False,
    "echo": True,
    "include": ["message.output_text.logprobs"],
    "input": "a",
    "instructions": "a",
    "logit_bias": {"5": 1.0},
    "messages": CHAT["messages"],
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "model": "tiny-chat",
    "parallel_tool_calls": None,
    "prompt": "a",
    "prompt_cache_key": "a",
    "prompt_cache_retention": "24h",
    "response_format": {"type": "text"},
    "safety_identifier": "a",
    "service_tier": "auto",
    "stop": ["a"],
    "store": True,
    "stream": False,
    "stream_options": None,
    "suffix": "",
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "none",
    "tools": [],
    "truncation": "disabled",
    "user": "a",
}


def rows(heading: str) -> dict[str, str]:
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = ROW.findall(section)
    assert len(found) == len(dict(found))
    return dict(found)


CASES = [(heading, name, kind) for heading in ROUTES for name, kind in rows(heading).items()]


@pytest.mark.parametrize("heading", ROUTES)
def test_every_field_of_openais_types_is_listed_and_no_other(heading: str) -> None:
    _, module, _ = ROUTES[heading]
    [streaming, whole] = [
        getattr(module, name)
        for name in dir(module)
        if re.fullmatch(r"\w+CreateParams(Non)?Streaming", name)
    ]
    assert rows(heading).keys() == streaming.__annotations__.keys() | whole.__annotations__.keys()


@pytest.mark.parametrize(("heading", "name", "kind"), CASES)
def test_each_is_treated_as_it_is_listed(
    server: LiveServer, heading: str, name: str, kind: str
) -> None:
    path, _, body = ROUTES[heading]
    if kind == "refused":
        refused = server.post(path, {**body, name: "a"})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == name
        return
    given = {**body, name: TAKEN.get(name, 1)}
    if name == "top_logprobs" and heading == "Chat completions":
        given["logprobs"] = True
    if name == "logprobs" and heading == "Chat completions":
        given["logprobs"] = True
    if name == "max_completion_tokens":
        del given["max_tokens"]
    response = server.post(path, given)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/responses", {"input": LONG}),
    ],
)
def test_an_answer_without_a_limit_may_fill_the_room_left(
    server: LiveServer, path: str, body: Any
) -> None:
    answer = server.post(path, {**body, "ignore_eos": True, "logit_bias": {"1": -1000.0}}).json()
    usage = answer["usage"]
    assert usage["total_tokens"] == server.service.llm.longest_text
    assert usage.get("completion_tokens", usage.get("output_tokens")) > 256
