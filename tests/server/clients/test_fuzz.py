"""A slice of `scripts/fuzz_server.py`: requests that fit the routes' document, and others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients_environment import needs_clients
from fuzzing import CONTEXT, command
from live_server import LiveServer, live_server

SECONDS = 300  # it takes 15


@pytest.fixture(scope="module")
def short(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_file: Path,
    write_chat_model: Callable[..., Path],
) -> Iterator[LiveServer]:
    """A model of so short a context that an answer which fills it is soon there."""
    needs_clients()
    folder = tmp_path_factory.mktemp("short") / "tiny-chat"
    with live_server(write_chat_model(folder, tokenizer_file, CONTEXT)) as live:
        yield live


def test_no_request_is_too_much_for_a_route_and_all_answers_are_as_documented(
    short: LiveServer, tmp_path: Path
) -> None:
    tried = subprocess.run(
        command(short.url, tmp_path, examples=30, seed=1, phases="fuzzing"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout[-20_000:] + tried.stderr
    assert "Tested: " in tried.stdout
