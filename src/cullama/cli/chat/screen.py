"""An answer on the terminal: shown as it comes, set as markdown once a block of it is complete.

A block is what stands between two empty lines, or a fenced piece of code. Its rows are counted
while it is written, so that they can be taken back and written anew; a block that has grown past
the screen stays as it is. Elsewhere than on a terminal the text is just written.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from ..terminal import shown

if TYPE_CHECKING:
    from rich.console import Console

    from ...chat.session import Reply
    from ...text.completion import Completion

FENCES = ("```", "~~~")
TAB = " " * 4
WAITING = "\x1b[2m…\x1b[0m"  # until the prompt has been read


def write_answer(reply: Reply, markdown: bool, is_silent: bool = False) -> Completion:
    """Show an answer as it comes; Ctrl-C ends it where it is."""
    with suppress(KeyboardInterrupt), Screen(markdown, is_silent) as screen:
        for piece in reply:
            screen.write(piece)
    reply.close()
    return reply.completion


class Screen:
    """`write` pieces, leave the `with`, and the answer stands there, a line of its own."""

    def __init__(self, markdown: bool = True, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._is_terminal = sys.stdout.isatty()
        self._sets_markdown = markdown and self._is_terminal and not _is_dumb()
        self._block = ""  # what is on the screen and not set yet
        self._fence = ""  # of the code we are in
        self._line = ""
        self._is_first = self._is_waiting = True
        self._size = shutil.get_terminal_size()

    def __enter__(self) -> Screen:
        if self._sets_markdown and not self._is_silent:
            self._put(WAITING)
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_silent:
            return
        if self._sets_markdown:
            self._stop_waiting()
            self._set_block()
        else:
            self._put("\n")

    def write(self, piece: str) -> None:
        if self._is_silent:
            return
        if not self._sets_markdown:
            self._put(shown(piece) if self._is_terminal else piece)
            return
        self._stop_waiting()
        for part in shown(piece).replace("\t", TAB).splitlines(keepends=True):
            if not self._block.strip("\n"):
                part = part.lstrip("\n")  # blocks are set apart when they are set
            self._put(part)
            self._block += part
            self._line += part
            if part.endswith("\n"):
                self._end_line()

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._put("\r\x1b[K")

    def _end_line(self) -> None:
        line, self._line = self._line.strip(), ""
        if self._fence:
            if line.startswith(self._fence):
                self._fence = ""
                self._set_block()
        elif line.startswith(FENCES):
            self._fence = line[:3]
        elif not line:
            self._set_block()

    def _set_block(self) -> None:
        """Take back what was written of the block, and write it set."""
        block, self._block, self._line = self._block, "", ""
        if not block.strip():
            return
        size = shutil.get_terminal_size()
        rows = rows_of(block, size.columns)
        if rows >= size.lines or size != self._size:  # it cannot be taken back any more
            self._put("" if block.endswith("\n") else "\n")
        else:
            self._put("\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J")
            self._print_markdown(block)
        self._is_first, self._size = False, size

    def _print_markdown(self, block: str) -> None:
        from rich.markdown import Markdown

        with self._console.capture() as capture:
            # An answer is a stranger's: a link shows where it leads.
            self._console.print(Markdown(block, hyperlinks=False, code_theme="ansi_dark"))
        self._put(("" if self._is_first else "\n") + capture.get().strip("\n") + "\n")

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=sys.stdout, highlight=False)

    @staticmethod
    def _put(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def rows_of(text: str, columns: int) -> int:
    """Rows of a terminal from the beginning of the text to the cursor behind it."""
    return sum(_rows_of_line(line, columns) for line in text.split("\n"))


def _rows_of_line(line: str, columns: int) -> int:
    from rich.cells import cell_len

    rows, column = 1, 0
    for character in line:
        width = cell_len(character)
        if column + width > columns:
            rows, column = rows + 1, 0
        column += width
    return rows


def _is_dumb() -> bool:
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown")


def stats_line(completion: Completion) -> str:
    """How fast an answer was."""
    timings, tokens = completion.timings, len(completion.token_ids)
    new = completion.prompt_tokens - completion.cached_tokens
    return (
        f"read {new} new tokens of {completion.prompt_tokens} in {timings.first_token:.2f} s"
        f" · wrote {tokens}, {timings.decode_rate(tokens):.1f} tok/s"
        f" · {completion.finish_reason} · seed {completion.seed}"
    )
