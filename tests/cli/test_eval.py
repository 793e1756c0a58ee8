"""`cullama eval` in real processes: figures, JSON, a progress bar, and mistakes in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from terminal import Terminal

from cullama import LLM
from cullama.benchmark.evaluation.multiple_choice import answer_questions, read_questions
from cullama.benchmark.evaluation.perplexity import measure_perplexity

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text"
MODEL = ("-m", str(FIXTURE))
QUESTIONS = [
    {"prompt": "The clockmaker", "choices": ["kept 12 clocks", "sold two cats"], "answer": 0},
    {"ctx": "In the little café", "endings": ["in the snow", "by the sea"], "label": "0"},
    {"goal": "Sleep", "sol1": "on the hill", "sol2": "in the snow, with a light", "label": 1},
    {"prompt": "Who", "choices": ["lit the way?", "ran"], "answer": 1},
]
TEXT = "The clockmaker kept 12 clocks and 3 cats. " * 30


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "questions.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
    return path


def test_choices_prints_accuracies_with_their_errors(
    cullama_command: CommandLine, questions: Path
) -> None:
    ended = cullama_command("eval", "choices", questions, *MODEL)
    with LLM(FIXTURE) as llm:
        report = answer_questions(llm, read_questions(questions))
        description = llm.description
    assert ended.code == 0
    assert ended.out == (f"questions  4\nacc        {report.acc}\nacc_norm   {report.acc_norm}\n")
    assert ended.err.splitlines()[0].startswith("text · safetensors")
    as_json = cullama_command("eval", "choices", questions, *MODEL, "--json", "-q")
    found = json.loads(as_json.out)
    assert as_json.err == ""
    assert found["acc"] == report.acc.value
    assert found["acc_stderr"] == report.acc.stderr
    assert [each["answer"] for each in found["results"]] == [0, 0, 1, 1]
    assert found["model"].split(" · ")[:2] == description.split(" · ")[:2]


def test_limit_takes_the_first_and_sample_some(
    cullama_command: CommandLine, questions: Path
) -> None:
    def lines(*options: str) -> list[int]:
        ended = cullama_command("eval", "choices", questions, *MODEL, "-q", "--json", *options)
        assert ended.code == 0, ended.err
        return [each["line"] for each in json.loads(ended.out)["results"]]

    assert lines("--limit", "2") == [1, 2]
    assert lines("--sample", "2", "--seed", "1") == lines("--sample", "2", "--seed", "1")
    assert len(lines("--sample", "3")) == 3


def test_perplexity_prints_what_the_library_measures(
    cullama_command: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    options = ("--window", "50", "--stride", "20", "--limit", "200")
    ended = cullama_command("eval", "perplexity", path, *MODEL, *options)
    with LLM(FIXTURE) as llm:
        report = measure_perplexity(llm, TEXT, 50, 20, 200)
    assert ended.code == 0
    assert f"perplexity       {report.perplexity}\n" in ended.out
    assert "tokens           200, in windows of 50, stride 20\n" in ended.out
    found = json.loads(cullama_command("eval", "perplexity", path, *MODEL, *options, "--json").out)
    assert found["perplexity"] == report.perplexity.value
    assert found["bits_per_byte"] == report.bits_per_byte


def test_answers_are_written_to_a_file(cullama_command: CommandLine, tmp_path: Path) -> None:
    path, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text('{"key": 1, "prompt": "Who are you?"}\n{"key": 2, "prompt": "Hi"}\n')
    ended = cullama_command("eval", "answers", path, *MODEL, "-o", output, "-n", "50", "--raw")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"answers    2, in {output}\n")
    assert [json.loads(line)["key"] for line in output.read_text().splitlines()] == [1, 2]
    again = cullama_command("eval", "answers", path, *MODEL, "-o", output, "--raw", "-n", "9")
    assert again.code == 2
    assert again.err.endswith("there is such a file already, expected a new one\n")
    sampled = ("-t", "1", "--seed", "3", "--sample", "1", "-n", "9", "--json", "-q", "--raw")
    texts = set()
    for name in ("a", "b"):
        ended = cullama_command("eval", "answers", path, *MODEL, "-o", tmp_path / name, *sampled)
        assert json.loads(ended.out)["answers"] == 1
        texts.add((tmp_path / name).read_text())
    assert len(texts) == 1


@pytest.mark.parametrize("kind", ["choices", "perplexity", "answers"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "line 1: not JSON"), (None, "No such file")],
    ids=["empty", "binary", "missing"],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    cullama_command: CommandLine, tmp_path: Path, kind: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "tasks.jsonl"
    if content is not None:
        path.write_bytes(content)
    output = ("-o", tmp_path / "out") if kind == "answers" else ()
    ended = cullama_command("eval", kind, path, *MODEL, *output)
    assert ended.code == 2
    message = message.replace("line 1: not JSON", "not UTF-8") if kind == "perplexity" else message
    assert ended.err.count("\n") <= 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "1"), "--seed is of --sample"),
        (("--limit", "1", "--sample", "1"), "a limit and a sample"),
        (("--limit", "0"), "0 is not in the range"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    cullama_command: CommandLine, questions: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = cullama_command("eval", "choices", questions, *MODEL, *arguments)
    assert ended.code == 2
    assert message in ended.err


def test_a_terminal_shows_a_progress_bar(cullama_command: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text((json.dumps(QUESTIONS[0]) + "\n") * 3000, encoding="utf-8")
    terminal = Terminal(
        cullama_command.command("eval", "choices", path, *MODEL), cullama_command.environment()
    )
    terminal.wait_for("scoring questions.jsonl .*%")
    text = terminal.wait_for("acc_norm   1.0000")
    assert "questions  3000" in text
