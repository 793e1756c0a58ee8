"""Text piped into `story` and `chat`: read, and said to be, in the bytes of every system."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from command_line import CommandLine

Ask: TypeAlias = Callable[..., str]

COMMANDS = {"story": "prompt", "chat": "question"}


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    command: str = request.param
    return command


@pytest.fixture
def asked(cullama_command: CommandLine, chat_model: Path, name: str) -> Ask:
    """What a command took as its text, from words and from bytes on its standard input."""

    def ask(*words: str, piped: bytes = b"") -> str:
        ended = cullama_command(
            name, "-m", chat_model, "-n", "1", "-q", "--json", *words, standard_input=piped
        )
        assert (ended.code, ended.err) == (0, "")
        text: str = json.loads(ended.out)[COMMANDS[name]]
        return text

    return ask


@pytest.mark.parametrize("words", [[], ["-"]])
def test_piped_text_is_the_prompt(asked: Ask, words: list[str]) -> None:
    assert asked(*words, piped=b"The dragon\n") == "The dragon"


def test_piped_text_comes_behind_a_prompt(asked: Ask) -> None:
    """It was passed over without a word."""
    assert asked("Explain", "this:", piped=b"x = 1\ny = 2\n") == "Explain this:\nx = 1\ny = 2"


def test_a_dash_says_where_piped_text_goes(asked: Ask) -> None:
    assert asked("Explain", "-", "please", piped=b"x\n") == "Explain\nx\nplease"


@pytest.mark.parametrize(
    ("piped", "text"),
    [
        (b"The dragon\r\n", "The dragon"),
        (b"one\r\ntwo\rthree\n", "one\ntwo\nthree"),
        (b"\xef\xbb\xbfThe dragon", "The dragon"),
        (b"Title\n\n", "Title\n"),
        (b"Title\r\n\r\n", "Title\n"),
        ("東京\n".encode(), "東京"),
    ],
)
def test_the_bytes_of_every_system_are_read(asked: Ask, piped: bytes, text: str) -> None:
    """As universal newlines, without a byte order mark, and one final newline less."""
    assert asked(piped=piped) == text


def test_a_prompt_beside_nothing_is_the_prompt(asked: Ask) -> None:
    assert asked("A", "-5", "b", piped=b"") == "A -5 b"
    assert asked("A", piped=b"\n") == "A"


def test_what_was_added_is_said(cullama_command: CommandLine, chat_model: Path, name: str) -> None:
    ended = cullama_command(name, "-m", chat_model, "-n", "1", "A", standard_input=b"x\ny\n")
    assert f"standard input was added to the {COMMANDS[name]}: 2 lines\n" in ended.err


def test_an_input_that_stays_silent_is_not_waited_for(
    cullama_command: CommandLine, chat_model: Path, name: str
) -> None:
    """As programs leave it open for those that they start."""
    command = cullama_command.command(name, "-m", chat_model, "-n", "1", "A", "llama")
    reader, writer = os.pipe()
    try:
        ended = subprocess.run(
            command,
            stdin=reader,
            capture_output=True,
            env=cullama_command.environment(),
            timeout=60,
            check=False,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert ended.returncode == 0
    assert b"standard input is silent, and not read" in ended.stderr


@pytest.mark.parametrize("words", [[], ["A"], ["-"]])
def test_bytes_that_are_no_text_are_refused(
    cullama_command: CommandLine, chat_model: Path, name: str, words: list[str]
) -> None:
    ended = cullama_command(name, "-m", chat_model, *words, standard_input=b"\xff\xfe")
    assert ended.code == 2
    assert "standard input is not UTF-8 text" in ended.err
