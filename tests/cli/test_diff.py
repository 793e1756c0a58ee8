"""`cullama diff`: options, output, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from cullama.cli import run

Capture: TypeAlias = "pytest.CaptureFixture[str]"

TYPES = ("--dtypes", "float32,bfloat16")


@pytest.fixture
def diff(tiny_model: Path, capfd: Capture) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and errors of a comparison of the tiny model, in this process."""

    def call(*arguments: str | Path, model: str | Path = tiny_model) -> tuple[int, str, str]:
        code = run(["diff", "-q", "-m", str(model), "--backends", "cpu", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_settings_that_agree_end_with_0(diff: Any) -> None:
    code, out, err = diff("The old clock 🦙", *TYPES)
    assert (code, err) == (0, "")
    assert "float32 · " in out.splitlines()[0]
    assert "bfloat16 · " in out.splitlines()[1]
    assert out.splitlines()[-2].startswith("agree: ")


def test_settings_that_differ_end_with_1(diff: Any) -> None:
    code, out, err = diff(*TYPES, "--tolerance", "1e-5")
    assert (code, err) == (1, "")
    assert out.splitlines()[-2].startswith("differ at embedding · gather embedding, ")


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (("--batches", "1,8"), "batch 1 · whole prompt", "batch 8 · whole prompt"),
        (("--chunks", "0,3"), "batch 1 · whole prompt", "batch 1 · chunks of 3"),
        (("--batches", "2,1", "--chunks", "4"), "batch 2 · chunks of 4", "batch 1 · chunks of 4"),
        (("--deterministic", "yes,no"), "deterministic", "batch 1"),
        (("--threads", "1,2", "--dtypes", "float16"), "float16 · 1 thread ", "float16 · 2 threads"),
        (("--threads", ",1"), "thread", "1 thread "),
    ],
)
def test_each_side_is_what_was_asked_for(
    diff: Any, arguments: tuple[str, ...], first: str, second: str
) -> None:
    code, out, _ = diff(*arguments)
    assert code == 0
    assert first in out.splitlines()[0]
    assert second in out.splitlines()[1]


def test_two_files_are_compared(
    diff: Any, tiny_model: Path, tmp_path: Path, write_model: Any, tokenizer_file: Path
) -> None:
    other = write_model(tmp_path / "other", tokenizer=tokenizer_file, seed=1)
    assert diff(model=f"{tiny_model},{other}")[0] == 1
    same = write_model(tmp_path / "same", tokenizer=tokenizer_file)
    code, out, _ = diff(model=f"{tiny_model},{same}")
    assert code == 0
    assert "identical" in out


def test_ids_need_no_tokenizer(diff: Any, tmp_path: Path, write_model: Any) -> None:
    bare = write_model(tmp_path / "bare", tokenizer=None)
    code, out, _ = diff("--tokens", "1,80,147", *TYPES, model=bare)
    assert code == 0
    assert "prompt  3 tokens" in out
    code, out, err = diff("hello", *TYPES, model=bare)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_json_and_a_page_are_written(diff: Any, tmp_path: Path) -> None:
    code, out, _ = diff("--json", "--detail", "--html", tmp_path / "page.html", *TYPES)
    assert code == 0
    result = json.loads(out)
    assert result["agree"] is True
    assert len(result["operators"]) == 23
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert json.dumps(result["verdict"]) in page


def test_a_model_is_loaded_once_where_both_sides_share_it(tiny_model: Path, capfd: Capture) -> None:
    assert run(["diff", "-m", str(tiny_model), "--backends", "cpu", "--batches", "1,2"]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert run(["diff", "-m", str(tiny_model), "--backends", "cpu", *TYPES]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "both sides are the same, expected an option with two values"),
        (("--dtypes", "float32,float32"), "both sides are the same"),
        (("--dtypes", "a,b"), "'a' is not one of"),
        (("--dtypes", "float32,"), "'' is not one of"),
        (("--backends", "cpu,gpu"), "'gpu'"),
        (("--batches", "1,2,3"), "expected one value, or two"),
        (("--batches", "1,0"), "--batches"),
        (("--batches", "1,many"), "--batches"),
        (("--chunks", "0,-1"), "--chunks"),
        (("--deterministic", "maybe"), "--deterministic"),
        (("--threads", "1,x"), "--threads"),
        (("--tolerance", "-1", *TYPES), "--tolerance"),
        (("--tolerance", "nan", *TYPES), "tolerance is nan"),
        (("--tokens", "1,x", *TYPES), "'1,x', expected token ids like 1,80,147"),
        (("--tokens", "1", "hello", *TYPES), "there is a PROMPT and --tokens"),
        (("--tokens", "300", *TYPES), "the prompt holds 300"),
        (("x" * 500, *TYPES), "does not fit the context"),
    ],
)
def test_misuse_is_one_line_and_ends_with_2(
    diff: Any, arguments: tuple[str, ...], named: str
) -> None:
    code, out, err = diff(*arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert len(err.splitlines()) == 1


def test_models_of_two_shapes_are_misuse(
    diff: Any, tiny_model: Path, tmp_path: Path, write_model: Any, tokenizer_file: Path
) -> None:
    other = write_model(tmp_path / "other", tokenizer=tokenizer_file, num_hidden_layers=1)
    code, out, err = diff(model=f"{tiny_model},{other}")
    assert (code, out) == (2, "")
    assert "layers of the second side's model is 1, of the first's 2" in err


def test_a_page_that_cannot_be_written_is_a_failure(diff: Any, tmp_path: Path) -> None:
    code, out, err = diff("--html", tmp_path / "no" / "page.html", *TYPES)
    assert (code, out) == (1, "")
    assert "cannot write" in err


def test_a_process_exits_as_the_call_does(cullama_command: Any, tiny_model: Path) -> None:
    ended = cullama_command(
        "diff", "-q", "-m", tiny_model, "--backends", "cpu", *TYPES, "--tolerance", "1e-6"
    )
    assert ended.code == 1
    assert "differ at" in ended.out
    assert ended.err == ""
