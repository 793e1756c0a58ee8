"""`cullama chat` with one question, in real processes: arguments, pipes, JSON, misuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.chat.archive import Archive

GREEDY = ("-t", "0", "-n", "6")

# name → arguments, standard input. All independent, so they run side by side.
RUNS: dict[str, tuple[tuple[str, ...], bytes]] = {
    "words": (("-q", *GREEDY, "Hi", "there"), b""),
    "dash": (("-q", *GREEDY, "-5 + 3?"), b""),
    "pipe": (("-q", *GREEDY), "naïve 🦙\n".encode()),
    "both": (("-q", *GREEDY, "Hi", "-"), b"there\n"),
    "json": (("-q", *GREEDY, "--json", "--logprobs", "2", "--system", "Be brief.", "Hi"), b""),
    "stats": ((*GREEDY, "--stats", "Hi"), b""),
    "spelled": (("-q", *GREEDY, "--json", "<|end|>"), b""),
    "as text": ((*GREEDY, "--template", "none", "--json", "Once upon a time"), b""),
    "empty": (("-q",), b" \n"),
    "not utf-8": (("-q",), b"caf\xe9"),
    "two answers": (("-q", "--n", "2", "Hi"), b""),
    "logprobs": (("-q", "--logprobs", "2", "Hi"), b""),
    "no template": (("-q", "--template", "/nowhere.jinja", "Hi"), b""),
    "bad setting": (("-q", "-t", "-1", "Hi"), b""),
    "too long": (("-q", "--context", "64", "x" * 500), b""),
}


@pytest.fixture(scope="module")
def runs(cullama_command: Any, chat_model: Path) -> dict[str, Any]:
    def run(name: str) -> Any:
        arguments, standard_input = RUNS[name]
        return cullama_command("chat", "-m", chat_model, *arguments, standard_input=standard_input)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNS, pool.map(run, RUNS), strict=True))


@pytest.fixture(scope="module")
def answer(chat_model: Path) -> Callable[[str], str]:
    """What the library says to the same question."""
    params = SamplingParams(temperature=0, max_tokens=6)
    with LLM(chat_model, backend="cpu") as llm:
        questions = ("Hi there", "naïve 🦙", "Hi\nthere", "Hi", "-5 + 3?")
        answers = {it: llm.session(params=params).send(it).text for it in questions}
    return answers.__getitem__


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("words", "Hi there"),
        ("dash", "-5 + 3?"),
        ("pipe", "naïve 🦙"),
        ("both", "Hi\nthere"),
    ],
)
def test_a_question_is_answered_as_the_library_does(
    runs: dict[str, Any], answer: Callable[[str], str], name: str, question: str
) -> None:
    assert runs[name].out == answer(question) + "\n"
    assert runs[name].err == ""
    assert runs[name].code == 0


def test_json_is_one_object_with_everything(runs: dict[str, Any]) -> None:
    result = json.loads(runs["json"].out)
    assert result["question"] == "Hi"
    assert result["system"] == "Be brief."
    assert len(result["logprobs"]) == len(result["token_ids"]) == 6
    assert result["finish_reason"] == "length"
    assert result["model"].startswith("tiny-chat")
    assert runs["json"].err == ""


def test_stats_and_model_go_to_standard_error(
    runs: dict[str, Any], answer: Callable[[str], str]
) -> None:
    assert runs["stats"].out == answer("Hi") + "\n"
    first, *_, last = runs["stats"].err.splitlines()
    assert first.startswith("tiny-chat · safetensors F32 · cpu")
    assert last.startswith("read ")


def test_a_spelled_control_token_is_text(runs: dict[str, Any]) -> None:
    spelled, plain = json.loads(runs["spelled"].out), json.loads(runs["json"].out)
    assert spelled["prompt_tokens"] > 12  # seven characters, not one token
    assert plain["prompt_tokens"] > 0


def test_without_a_template_the_text_is_continued(runs: dict[str, Any], chat_model: Path) -> None:
    with LLM(chat_model, backend="cpu") as llm:
        expected = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=6))
    assert json.loads(runs["as text"].out)["token_ids"] == list(expected.token_ids)


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("empty", "the question is empty", 2),
        ("not utf-8", "standard input is not UTF-8 text", 2),
        ("two answers", "--n is 2, expected 1", 2),
        ("logprobs", "--logprobs shows in --json output only", 2),
        ("no template", "/nowhere.jinja: cannot be read: No such file or directory", 1),
        ("bad setting", "temperature is -1.0", 2),
        ("too long", "say it in fewer words", 2),
    ],
)
def test_errors_are_one_line(runs: dict[str, Any], name: str, words: str, code: int) -> None:
    assert words in runs[name].err
    assert runs[name].err.count("\n") == 1
    assert runs[name].out == ""
    assert runs[name].code == code


def test_a_question_can_go_on_with_the_conversation_that_was_saved_last(
    cullama_command: Any, chat_model: Path, tmp_path: Path
) -> None:
    data = {"XDG_DATA_HOME": str(tmp_path)}
    options = ("-q", *GREEDY, "--continue")
    nothing = cullama_command("chat", *options, "And?", environment=data)
    assert nothing.code == 2
    assert "no conversation has been saved yet" in nothing.err

    params = SamplingParams(temperature=0, max_tokens=6)
    with LLM(chat_model, backend="cpu") as llm:
        session = llm.session("Be brief.", params)
        session.send("Hi")
        archive = Archive(tmp_path / "cullama" / "conversations")
        path = archive.save(session, None, str(chat_model))
        [kept] = archive.conversations()
        again = kept.saved.session(llm)
        again.send("And?")
    ended = cullama_command("chat", *options, "And?", environment=data)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(path.read_text())["messages"] == again.messages

    listed = cullama_command("chat", "--list", environment=data)
    assert listed.code == 0
    assert re.fullmatch(r"   1  20..-..-.. ..:..    2 turns  Hi\n", listed.out)
    asked = cullama_command("chat", "--list", "And?", environment=data)
    assert (asked.code, asked.out) == (2, "")
    assert "--list goes alone" in asked.err
