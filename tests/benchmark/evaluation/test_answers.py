"""Answers to a file's prompts, written line by line for others to judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM, SamplingParams
from cullama.benchmark.evaluation import answers
from cullama.benchmark.evaluation.answers import read_prompts, write_answers
from cullama.errors import CullamaError, UsageError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "text"
GREEDY = SamplingParams(temperature=0, max_tokens=60)
TASKS: list[dict[str, Any]] = [
    {"key": 7, "prompt": "Who are you?", "kwargs": [{"n": None}]},
    {"key": 8, "prompt": "What do you eat?"},
    {"key": 9, "prompt": "Ünïcode 🦙"},
]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(FIXTURE) as llm:
        yield llm


def tasks_file(tmp_path: Path, *tasks: Any) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_each_line_has_the_task_s_fields_and_the_response(
    tmp_path: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(answers, "BATCH", batch)
    tasks = read_prompts(tasks_file(tmp_path, *TASKS))
    output, seen = tmp_path / "answers.jsonl", []
    cut = write_answers(
        llm, tasks, output, GREEDY, progress=lambda done, total: seen.append((done, total))
    )
    written = lines(output)
    assert seen[-1] == (3, 3)
    assert cut == sum(line["finish_reason"] == "length" for line in written)
    for task, line in zip(TASKS, written, strict=True):
        message = {"role": "user", "content": task["prompt"]}
        assert {name: line[name] for name in task} == task
        assert line["response"] == llm.chat([message], GREEDY).text


def test_raw_prompts_are_continued_as_text(tmp_path: Path, llm: LLM) -> None:
    tasks = read_prompts(tasks_file(tmp_path, {"prompt": "The clockmaker"}))
    write_answers(llm, tasks, tmp_path / "out", GREEDY, is_chat=False)
    [line] = lines(tmp_path / "out")
    assert line["response"] == llm.generate("The clockmaker", GREEDY).text
    assert line["response"].startswith(" kept 12 clocks")


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, llm: LLM) -> None:
    tasks = read_prompts(tasks_file(tmp_path, *TASKS))
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UsageError, match="there is such a file already"):
        write_answers(llm, tasks, tmp_path / "out", GREEDY)
    assert (tmp_path / "out").read_text() == "precious"
    with pytest.raises(CullamaError, match=r"cannot write .*missing"):
        write_answers(llm, tasks, tmp_path / "missing" / "out", GREEDY)


def test_what_is_answered_stays_where_it_is_cut_short(
    tmp_path: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BATCH", 1)
    tasks = read_prompts(tasks_file(tmp_path, *TASKS))

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(llm, tasks, tmp_path / "out", GREEDY, progress=interrupt)
    assert [line["key"] for line in lines(tmp_path / "out")] == [7, 8]


@pytest.mark.parametrize("prompt", [None, 5, "", "  ", ["a"], "\ud800"])
def test_a_task_without_a_prompt_is_refused_with_its_line(tmp_path: Path, prompt: Any) -> None:
    with pytest.raises(UsageError, match="line 4: prompt is"):
        read_prompts(tasks_file(tmp_path, *TASKS, {"prompt": prompt}))


def test_a_prompt_that_does_not_fit_is_named_before_any_is_answered(
    tmp_path: Path, llm: LLM
) -> None:
    tasks = read_prompts(tasks_file(tmp_path, *TASKS, {"prompt": "word " * 600}))
    with pytest.raises(UsageError, match=r"line 4: .*does not fit the context"):
        write_answers(llm, tasks, tmp_path / "out", GREEDY)
    assert not (tmp_path / "out").exists()
