"""Clients that people have, as processes of their own environment, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clients_environment import ask, needs_clients, run
from live_server import LiveServer

from cullama import LLM, SamplingParams
from cullama.text.completion import Completion

MODEL = "tiny-chat"
USER = {"role": "user", "content": "Once upon a time"}
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def usage_of(completion: Completion) -> tuple[int, int]:
    return completion.prompt_tokens, len(completion.token_ids)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_clients()
    return tmp_path_factory.mktemp("home")


def test_langchain_gets_answers_streams_batches_and_logprobs(
    server: LiveServer, local: LLM, home: Path
) -> None:
    got = ask("ask_langchain.py", server.url, MODEL, home)
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


def test_litellm_gets_answers_streams_and_its_own_errors(
    server: LiveServer, local: LLM, home: Path
) -> None:
    got = ask("ask_litellm.py", server.url, MODEL, home)
    expected = local.chat([USER], GREEDY)
    assert got["answer"] == got["streamed"] == got["again"] == expected.text
    assert got["finish_reason"] == expected.finish_reason
    assert [each for each in got["streamed_finish_reason"] if each] == [expected.finish_reason]
    usage = got["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == usage_of(expected)
    assert got["completion"] == local.generate("Once upon a time", GREEDY).text
    assert "temperature" in got["refusal"]


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
