"""`cullama bench http` as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--streams", "2", "--tokens", "4", "--rounds", "1", "--first", "1", "--first-prompt", "4")
WORKLOAD = ("--requests", "2", "--shortest", "2", "--longest", "4")


def test_a_table_has_engine_and_server(cullama_command: Any, tiny_model: Path) -> None:
    arguments = ("-q", "-m", tiny_model, "--threads", "1", *SMALL, *WORKLOAD)
    ended = cullama_command("bench", "http", *arguments)
    assert ended.code == 0
    for words in ("2 × 4 tokens", "2 requests", "HTTP adds", "front"):
        assert words in ended.out


def test_json_leaves_out_the_workload_where_it_has_no_requests(
    cullama_command: Any, tiny_model: Path
) -> None:
    arguments = ("-q", "-m", tiny_model, *SMALL, "--requests", "0", "--json")
    ended = cullama_command("bench", "http", *arguments)
    assert ended.code == 0
    figures = json.loads(ended.out)
    assert figures["workload"] is None
    assert figures["streams"]["http"][0]["tokens"] == 8


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--requests", "0", "--tokens", "100000"), "--tokens"),
        (("--tokens", "4", "--longest", "100000"), "--longest"),
        (("--requests", "1", "--shortest", "9", "--longest", "8"), "shorter"),
    ],
)
def test_what_does_not_fit_is_refused(
    cullama_command: Any, tiny_model: Path, arguments: tuple[str, ...], named: str
) -> None:
    ended = cullama_command("bench", "http", "-q", "-m", tiny_model, *arguments)
    assert ended.code != 0
    assert named in ended.err
    assert "Traceback" not in ended.err
