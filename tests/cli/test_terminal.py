"""What reaches a terminal: every script whole, and no character that could command it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from scripts_of_the_world import SENTENCES, UNSAFE
from terminal import Terminal

from cullama.cli.chat.screen import Screen
from cullama.cli.terminal import sanitized, wrapped


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_of_any_script_stays_as_it_is(name: str) -> None:
    assert sanitized(SENTENCES[name]) == SENTENCES[name]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("name", SENTENCES)
def test_an_answer_in_any_script_is_written_whole(
    monkeypatch: pytest.MonkeyPatch, name: str, markdown: bool
) -> None:
    out = FakeTerminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    with Screen(markdown) as screen:
        for letter in SENTENCES[name]:
            screen.write(letter)
    *_, last = out.getvalue().rstrip("\n").split("\x1b[J")
    assert SENTENCES[name] in last


def test_a_story_in_every_script_reaches_a_real_terminal(
    cullama_command: Any, chat_model: Path
) -> None:
    prompt = "\n".join(SENTENCES.values())
    arguments = ("-q", "-m", chat_model, "-n", "1", "-t", "0", prompt)
    terminal = Terminal(cullama_command.command("story", *arguments), cullama_command.environment())
    assert terminal.end() == 0
    assert prompt in terminal.raw.replace("\r\n", "\n")


@pytest.mark.parametrize("character", UNSAFE, ids=lambda it: f"U+{ord(it):04X}")
def test_what_commands_a_terminal_or_reorders_a_line_is_replaced(character: str) -> None:
    assert sanitized(f"a{character}b") == "a�b"


def test_tabs_and_newlines_stay() -> None:
    assert sanitized("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_lines_are_wrapped_to_the_width_and_indented(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("sys.stdout", FakeTerminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    first, *others = wrapped("name " + "word " * 40, indent=25).splitlines()
    assert len(first) <= columns
    assert all(len(line) <= columns for line in others)
    assert all(line.startswith(" " * min(25, columns // 2) + "word") for line in others)
