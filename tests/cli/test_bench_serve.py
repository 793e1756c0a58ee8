"""`cullama bench serve` as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--requests", "6", "--shortest", "2", "--longest", "12", "--batch", "3")


@pytest.fixture(scope="module")
def served(cullama_command: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    page = tmp_path_factory.mktemp("trace") / "out.html"
    ended = cullama_command(
        "bench", "serve", "-q", "-m", tiny_model, *SMALL, "--json", "--trace", page
    )
    return ended, page


def test_a_report_for_machines_compares_the_runs(served: Any) -> None:
    ended, _ = served
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert [run["kind"] for run in report["runs"]] == ["continuous", "static", "leaving"]
    assert report["runs"][0]["ratio"] == 1
    assert report["batch"] == 3
    assert "6 requests, prompts and answers of 2 to 12 tokens" in report["workload"]
    assert report["host"]["sequences"] == 256


def test_a_trace_is_a_page(served: Any) -> None:
    _, page = served
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_table_names_the_workload_and_the_ratios(cullama_command: Any, tiny_model: Path) -> None:
    ended = cullama_command("bench", "serve", "-q", "-m", tiny_model, *SMALL, "--rate", "500")
    assert ended.code == 0
    for text in ("Poisson, 500 a second", "continuous", "static", "leaving", "1.00 ×", "µs a step"):
        assert text in ended.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--longest", "5000"], "up to 10000 tokens"),
        (["serve", "--shortest", "50", "--longest", "5"], "50 to 5"),
        (["serve", "--batch", "0"], "--batch"),
        (["serve", "--rate", "0"], "--rate"),
        (["serve", "--trace", "/nowhere/at/all.html", *SMALL], "/nowhere/at/all.html"),
        (["--json", "serve"], "--json stands before 'serve'"),
        (["serv"], "serv"),
    ],
)
def test_misuse_is_one_line(cullama_command: Any, arguments: list[str], named: str) -> None:
    shape = ["--config", "tinystories-656k", "-q"] if arguments[0] == "serve" else []
    ended = cullama_command("bench", *arguments, *shape)
    assert ended.code == (1 if "--trace" in arguments else 2)
    assert named in ended.err
    assert len(ended.err.strip().splitlines()) == 1
