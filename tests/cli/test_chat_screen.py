"""Answers on a terminal: raw text is erased when its block is rendered as markdown."""

from __future__ import annotations

import io
import shutil
import signal
from collections.abc import Callable
from os import terminal_size
from typing import TypeAlias

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts_of_the_world import SENTENCES

from cullama.cli.chat.rows import is_row_count_certain, rows_of
from cullama.cli.chat.screen import Screen, last_block

Show: TypeAlias = Callable[..., list[str]]

ROWS, COLUMNS = 24, 40
ANSWER = """# A heading

Some **bold** text that is rather longer than one row of this terminal is wide.

- one
- two

```python
def add(left, right):

    return left + right
```
The end, with `code` and 東京 and 🦙."""


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """The lines of the screen after an answer was written in these pieces."""

    def show(pieces: list[str], markdown: bool = True, rows: int = ROWS) -> list[str]:
        out = FakeTerminal()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(COLUMNS))
        monkeypatch.setenv("LINES", str(rows))
        with Screen(markdown) as screen:
            for piece in pieces:
                screen.write(piece)
        terminal = pyte.HistoryScreen(COLUMNS, rows, history=1000)
        pyte.Stream(terminal).feed(out.getvalue().replace("\n", "\r\n"))
        above = ["".join(line[x].data for x in range(COLUMNS)) for line in terminal.history.top]
        return [line.rstrip() for line in [*above, *terminal.display]]

    return show


def test_markdown_is_rendered_and_nothing_raw_is_left(show: Show) -> None:
    text = "\n".join(show(list(ANSWER)))
    assert "A heading" in text
    assert "\n• one\n" in text
    assert "return left + right" in text
    for raw in ("# A", "**", "```", "- one", "`code`"):
        assert raw not in text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_screen_does_not_depend_on_how_the_text_is_cut(show: Show, size: int) -> None:
    pieces = [ANSWER[i : i + size] for i in range(0, len(ANSWER), size)]
    assert show(pieces) == show([ANSWER])


def test_a_block_taller_than_the_screen_stays_raw(show: Show) -> None:
    lines = [f"line {index} **" for index in range(30)]
    shown = show(["\n".join(lines)], rows=10)
    assert [line for line in shown if line] == lines


def test_text_is_left_alone_without_markdown(show: Show) -> None:
    assert show(["**bold**\n\n# x"], markdown=False)[:3] == ["**bold**", "", "# x"]


@pytest.mark.parametrize("markdown", [False, True])
def test_spaces_before_an_answer_are_left_out(show: Show, markdown: bool) -> None:
    assert show([" ", "\n ", " Paris", "  is", " it."], markdown)[0] in (
        "Paris  is it.",
        "Paris is it.",
    )


def test_control_characters_of_an_answer_are_replaced(show: Show) -> None:
    shown = show(["a\x1b[2Jb\x1b]0;title\x07c\r\x08d"])
    assert shown[0] == "a�[2Jb�]0;title�c��d"


def test_a_link_shows_its_address(show: Show) -> None:
    assert "https://evil.example" in "".join(show(["[your bank](https://evil.example)"]))


def test_a_file_gets_the_text_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with Screen() as screen:
        screen.write("**bold**\x1b\n")
    assert out.getvalue() == "**bold**\x1b\n\n"


def test_after_a_resize_the_raw_text_stays(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([terminal_size((COLUMNS, ROWS))])
    later = terminal_size((COLUMNS - 5, ROWS))
    with monkeypatch.context() as patch:  # pytest asks for the size, too
        patch.setattr(shutil, "get_terminal_size", lambda *a, **k: next(sizes, later))
        assert show(["**bold**"])[0] == "**bold**"


def test_after_a_suspension_the_raw_text_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    out = FakeTerminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm-256color")
    before = signal.getsignal(signal.SIGCONT)
    with Screen() as screen:
        screen.write("**bold**\n")
        signal.raise_signal(signal.SIGCONT)
        screen.write("\n*next*\n\n")
    assert "**bold**" in out.getvalue()
    assert out.getvalue().count("\x1b[J") == 1  # the next block alone is erased
    assert "*next*" not in out.getvalue().rpartition("\x1b[J")[2]
    assert signal.getsignal(signal.SIGCONT) is before


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("", ""),
        ("one line", "one line"),
        ("one\n\ntwo\nlines", "two\nlines"),
        ("one\n\n", ""),
        ("```python\na = 1\n\nb =", "```python\na = 1\n\nb ="),
        ("words\n```\na\n```\nand more", "```\na\n```\nand more"),
        ("```\na\n```\n\nand more", "and more"),
    ],
)
def test_the_block_that_was_begun_is_found(text: str, block: str) -> None:
    assert last_block(text) == block


@given(st.text(st.sampled_from("ab \n"), max_size=100), st.integers(min_value=1, max_value=12))
def test_rows_are_counted_as_a_terminal_wraps_them(text: str, columns: int) -> None:
    terminal = pyte.Screen(columns, 300)
    pyte.Stream(terminal).feed(text.replace("\n", "\r\n"))
    assert rows_of(text, columns) == terminal.cursor.y + 1


def test_a_wide_character_that_does_not_fit_begins_a_row() -> None:
    assert rows_of("東東", 4) == 1
    assert rows_of("a東東", 4) == 2
    assert rows_of("aa東", 3) == 2


@pytest.mark.parametrize(
    "name", ["hindi", "families", "flags", "hindi, a joiner", "korean", "thai", "chinese", "arabic"]
)
def test_text_whose_rows_terminals_count_differently_stays_raw(show: Show, name: str) -> None:
    is_disputed = name in ("hindi", "families", "flags", "hindi, a joiner")
    text = f"*a* {SENTENCES[name]}"
    assert is_row_count_certain(text, 200)  # one row by any count
    assert "*a*" not in "".join(show([text[:10]]))
    long = " ".join([text] * 20)
    assert is_row_count_certain(long, COLUMNS) != is_disputed
    assert ("*a*" in "".join(show([long], rows=100))) == is_disputed
