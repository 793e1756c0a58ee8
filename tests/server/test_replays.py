"""Answers whose engine process is killed in the middle: a replay is the same in all its parts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from live_server import OPTIONS, LiveServer, live_server
from scripted_model import write_scripted
from test_tools_route import SCRIPTS, TEMPLATE

NUMBERS: Any = {"type": "array", "items": {"type": "integer"}, "minItems": 40, "maxItems": 40}
OBJECT: Any = {"type": "object", "properties": {"a": NUMBERS}, "required": ["a"]}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"numbers": NUMBERS},
            "required": ["numbers"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "numbers", "schema": OBJECT},
}
LONG: dict[str, Any] = {"max_tokens": 120, "ignore_eos": True}
CASES: dict[str, dict[str, Any]] = {
    "greedy, under a schema": {"response_format": SCHEMA, "temperature": 0, "seed": 2},
    "seeded, under a schema": {"response_format": SCHEMA, "seed": 3},
    "under a schema, with logprobs": {
        "response_format": SCHEMA,
        "seed": 4,
        "logprobs": True,
        "top_logprobs": 3,
    },
    "a grammar, twice": {"grammar": 'start: ("ab" | "cd"){150}', "seed": 6, "n": 2},
    "a required call": {
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": 7,
    },
    "a strict call, with logprobs": {
        "tools": [{**TOOL, "function": {**TOOL["function"], "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "seed": 8,
        "logprobs": True,
        "return_token_ids": True,
    },
    "logprobs of three samples": {**LONG, "n": 3, "seed": 10, "logprobs": True, "top_logprobs": 2},
    "penalties, bias and speculation": {
        **LONG,
        "seed": 11,
        "repetition_penalty": 1.2,
        "logit_bias": {"40": 2},
        "speculation": 4,
    },
    "a stop text": {**LONG, "seed": 12, "stop": ["zzzz"], "min_p": 0.01},
}
KILL_SECONDS = 60
MIN_BEGUN = 9  # samples that have tokens, and not all of them, when the process is killed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models") / "scripted"
    write_scripted(folder, TEMPLATE, SCRIPTS)
    with live_server(folder, options={**OPTIONS, "deterministic": True}) as live:
        yield live


def body(case: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Numbers, please: {case}"}]
    return {"messages": messages, "max_tokens": 1200, **CASES[case]}


def parts(answer: dict[str, Any]) -> list[Any]:
    """Return the choices, without the ids of calls, which are drawn anew."""
    choices = answer["choices"]
    for choice in choices:
        for call in choice["message"].get("tool_calls", ()):
            call["id"] = "call"
    return [choices, answer["usage"]["completion_tokens"]]


@pytest.fixture(scope="module")
def answers(server: LiveServer) -> dict[str, tuple[Any, Any]]:
    """Return each case's answer, alone and when the process was killed while all were written."""
    path = "/v1/chat/completions"
    alone = {case: server.post(path, body(case)).json() for case in CASES}
    killed: dict[str, Any] = {}

    def ask(case: str) -> None:
        killed[case] = server.post(path, body(case)).json()

    engine = server.service.engine
    threads = [threading.Thread(target=ask, args=(case,)) for case in CASES]
    for thread in threads:
        thread.start()
    deadline, begun = time.monotonic() + KILL_SECONDS, 0
    while begun < MIN_BEGUN and time.monotonic() < deadline:
        time.sleep(0.001)
        begun = sum(each["tokens"] > 1 for each in engine.progress())
    os.kill(engine.pid, signal.SIGKILL)
    assert begun >= MIN_BEGUN
    for thread in threads:
        thread.join(KILL_SECONDS)
    assert engine.restarts == 1
    return {case: (alone[case], killed[case]) for case in CASES}


@pytest.mark.parametrize("case", list(CASES))
def test_a_replayed_answer_is_the_same_in_all_parts(
    answers: dict[str, tuple[Any, Any]], case: str
) -> None:
    alone, killed = answers[case]
    assert "choices" in killed, killed
    assert parts(killed) == parts(alone)


def test_calls_and_schemas_are_whole_behind_a_replay(answers: dict[str, tuple[Any, Any]]) -> None:
    _, killed = answers["a required call"]
    assert killed["choices"][0]["finish_reason"] == "tool_calls"
    _, killed = answers["seeded, under a schema"]
    assert killed["choices"][0]["finish_reason"] == "stop"
