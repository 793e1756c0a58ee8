"""Clients that people have, as processes of their own environment, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients_environment import ask, needs_clients, run
from live_server import LiveServer, live_server
from scripted_model import write_scripted
from test_tools_route import SCRIPTS, TEMPLATE

from cullama import LLM, SamplingParams
from cullama.text.completion import Completion

MODEL = "tiny-chat"
USER = {"role": "user", "content": "Once upon a time"}
GREEDY = SamplingParams(temperature=0, max_tokens=12)


CALL = {"city": "Łódź", "days": 3}  # as SCRIPTS has it


def usage_of(completion: Completion) -> tuple[int, int]:
    return completion.prompt_tokens, len(completion.token_ids)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_clients()
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def with_tools(home: Path) -> Iterator[LiveServer]:
    """A model that answers as its template's cue says: by a text, or by a call."""
    with live_server(write_scripted(home / "scripted", TEMPLATE, SCRIPTS)) as live:
        yield live


def check_pair(pair: Any) -> None:
    assert set(pair) == {"n", "k"}
    assert 0 <= pair["n"] <= 9
    assert pair["k"] in ("a", "b")


def test_langchain_gets_answers_streams_batches_logprobs_objects_and_calls(
    server: LiveServer, with_tools: LiveServer, local: LLM, home: Path
) -> None:
    got = ask("ask_langchain.py", server.url, MODEL, with_tools.url, folder=home)
    conversation = [{"role": "system", "content": "Be brief."}, USER]
    expected = local.chat(conversation, SamplingParams(temperature=0, max_tokens=12, logprobs=2))
    assert got["answer"] == got["streamed"] == expected.text
    for usage in (got["usage"], got["streamed_usage"]):
        assert (usage["input_tokens"], usage["output_tokens"]) == usage_of(expected)
    assert got["finish_reason"] == expected.finish_reason
    assert expected.logprobs is not None
    scores = [each.logprob for each in expected.logprobs]
    assert got["logprobs"] == pytest.approx(scores, abs=1e-5)  # of another batch
    answer = {"role": "assistant", "content": expected.text}
    longer = [*conversation, answer, {"role": "user", "content": "And then?"}]
    second = local.chat(longer, GREEDY).text
    assert got["second"] == second
    assert got["batch"] == [expected.text, second]
    assert got["completion"] == local.generate("Once upon a time", GREEDY).text
    check_pair(got["parsed"])
    tools = got["tools"]
    assert tools["text"] == "Let me look that up."
    assert tools["call"] == ["weather", CALL]
    assert tools["streamed"] == [["weather", CALL]]
    assert tools["end"] == SCRIPTS["<|cue:text|>"]


def test_instructor_gets_objects_by_schema_and_by_call(
    server: LiveServer, with_tools: LiveServer, home: Path
) -> None:
    got = ask("ask_instructor.py", server.url, MODEL, with_tools.url, folder=home)
    assert set(got) == {"json_schema", "tools"}
    for pair in got.values():
        check_pair(pair)


def test_litellm_gets_answers_streams_forms_calls_and_its_own_errors(
    server: LiveServer, with_tools: LiveServer, local: LLM, home: Path
) -> None:
    got = ask("ask_litellm.py", server.url, MODEL, with_tools.url, folder=home)
    expected = local.chat([USER], GREEDY)
    assert got["answer"] == got["streamed"] == got["again"] == expected.text
    assert got["finish_reason"] == expected.finish_reason
    assert [each for each in got["streamed_finish_reason"] if each] == [expected.finish_reason]
    usage = got["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == usage_of(expected)
    assert got["completion"] == local.generate("Once upon a time", GREEDY).text
    assert "temperature" in got["refusal"]
    assert json.loads(got["formed"]) in ({"bit": 0}, {"bit": 1})
    assert got["call_finish_reason"] == "tool_calls"
    for call in (got["call"], got["streamed_call"]):
        assert call["name"] == "weather"
        assert json.loads(call["arguments"]) == CALL


@pytest.mark.parametrize("options", [("--no-stream",), ()])
def test_llm_at_the_terminal_asks_a_server_of_its_list(
    server: LiveServer, local: LLM, home: Path, options: tuple[str, ...]
) -> None:
    entry = f"- model_id: here\n  model_name: {MODEL}\n  api_base: {server.url}/v1\n"
    (home / "extra-openai-models.yaml").write_text(entry)
    settings: dict[str, Any] = {"LLM_USER_PATH": str(home)}
    greedy = ("-o", "temperature", "0", "-o", "max_tokens", "12")
    text = run(
        *("llm", "prompt", "-m", "here", "--no-log", *greedy, *options, USER["content"]),
        folder=home,
        environment=settings,
    )
    assert text.strip() == local.chat([USER], GREEDY).text.strip()
