"""Files of tasks: read line by line, and refused with the file's name and the line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cullama.benchmark.evaluation import task_file
from cullama.benchmark.evaluation.task_file import Selection, read_tasks, read_text
from cullama.errors import UsageError


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_blank_lines_are_passed_over_and_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", '\ufeff{"a": 1}\n\n  \r\n{"a": 2}\r\n{"a": "é"}')
    tasks = read_tasks(path)
    assert [(task.line, dict(task.values)) for task in tasks] == [
        (1, {"a": 1}),
        (4, {"a": 2}),
        (5, {"a": "é"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        (b"\xff\xfe{}", "line 1: not JSON"),
        (b"\x00" * 100, "line 1: not JSON"),
        (b"[1]\n", r"line 1: \[1\], expected a JSON object"),
        (b'"text"', "line 1: 'text', expected a JSON object"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "line 1: not JSON"),
    ],
)
def test_a_damaged_file_is_refused_with_the_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path / "tasks.jsonl", content)
    with pytest.raises(UsageError, match=f"tasks.jsonl.*{message}") as caught:
        read_tasks(path)
    assert len(str(caught.value)) < 500


def test_endless_lines_and_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_file, "MAX_LINE_BYTES", 50)
    monkeypatch.setattr(task_file, "MAX_LINES", 3)
    with pytest.raises(UsageError, match="line 2: longer than 50 bytes"):
        read_tasks(write(tmp_path / "a", '{"a": 1}\n{"a": "' + 50 * "x" + '"}'))
    assert len(read_tasks(write(tmp_path / "b", '{"a": 1}\n' * 3))) == 3
    with pytest.raises(UsageError, match="more than 3 lines"):
        read_tasks(write(tmp_path / "c", '{"a": 1}\n' * 4))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        for read in (read_tasks, read_text):
            with pytest.raises(UsageError, match=message):
                read(path)


def test_a_text_is_utf_8(tmp_path: Path) -> None:
    assert read_text(write(tmp_path / "a", "\ufeffZürich\n")) == "Zürich\n"
    with pytest.raises(UsageError, match="not UTF-8"):
        read_text(write(tmp_path / "b", b"caf\xe9"))


def test_a_limit_takes_the_first_and_a_sample_some_by_their_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "".join(json.dumps({"a": i}) + "\n" for i in range(50)))

    def taken(selection: Selection) -> list[int]:
        return [task.values["a"] for task in read_tasks(path, selection)]

    assert taken(Selection(limit=3)) == [0, 1, 2]
    assert taken(Selection(limit=99)) == taken(Selection(sample=99)) == list(range(50))
    some = taken(Selection(sample=10, seed=1))
    assert some == sorted(set(some)) == taken(Selection(sample=10, seed=1))
    assert len(some) == 10
    assert some != taken(Selection(sample=10, seed=2))
    with pytest.raises(UsageError, match="a limit and a sample"):
        Selection(limit=1, sample=1)
