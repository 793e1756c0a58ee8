"""`cullama bench chat` as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--history", "8", "--history", "16", "--words", "2", "--repeats", "2")


def test_a_second_turn_prefills_only_its_own_tokens(cullama_command: Any, tiny_model: Path) -> None:
    ended = cullama_command(
        "bench",
        "chat",
        "-q",
        "-m",
        tiny_model,
        *SMALL,
        "--json",
    )
    assert (ended.code, ended.err.count("\n")) == (0, 1)  # it has no chat template, and says so
    short, long = json.loads(ended.out)["runs"]
    assert long["before"] >= short["before"] + 8  # the first turn, but for its last token
    assert all(run["new"] < 60 for run in (short, long))
    assert len(long["ratios"]) == 2


def test_a_table_tells_the_ratio(cullama_command: Any, tiny_model: Path) -> None:
    ended = cullama_command("bench", "chat", "-q", "-m", tiny_model, *SMALL)
    assert ended.code == 0
    assert "cached before" in ended.out
    assert ended.out.count(" - ") == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--history", "5000"], "leaves no room for a second one"),
        (["--history", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    cullama_command: Any, tiny_model: Path, arguments: list[str], named: str
) -> None:
    ended = cullama_command("bench", "chat", "-q", "-m", tiny_model, *arguments)
    assert ended.code == 2
    assert named in ended.err
    assert ended.err.count("\n") == 1
