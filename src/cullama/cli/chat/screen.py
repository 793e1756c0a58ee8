"""Streams an answer to the terminal, and redraws each block as markdown once it is complete.

A block is a paragraph between empty lines, or a fenced piece of code. It is written raw as it
comes; the rows it takes are counted, erased and printed as markdown. A block taller than the
screen stays raw. In a file or a pipe the text is written as it is. Generating is `Reply`'s work.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from ..stats import compiling_line
from ..terminal import sanitized

if TYPE_CHECKING:
    from rich.console import Console

    from ...chat.session import Reply
    from ...text.completion import Completion

FENCES = ("```", "~~~")
TAB = " " * 4
WAITING = "\x1b[2m…\x1b[0m"  # during prefill


def write_answer(reply: Reply, markdown: bool, is_silent: bool = False) -> Completion:
    """Stream an answer to standard output; Ctrl-C stops it and keeps what there is.

    Of an answer that goes on, the block that was begun is shown again.
    """
    with suppress(KeyboardInterrupt), Screen(markdown, is_silent) as screen:
        screen.write(last_block(reply.begun.text))
        for piece in reply:
            screen.write(piece)
    reply.close()
    return reply.completion


def last_block(text: str) -> str:
    """Return the last paragraph of a text, or its last piece of code with the fence before it."""
    start, fence, position = 0, "", 0
    for line in text.splitlines(keepends=True):
        stripped, position = line.strip(), position + len(line)
        if fence:
            fence = "" if stripped.startswith(fence) else fence
        elif stripped.startswith(FENCES):
            fence, start = stripped[:3], position - len(line)
        elif not stripped:
            start = position
    return text[start:]


class Screen:
    """A context manager: `write` the answer's text piece by piece within the `with`.

    `is_silent` writes nothing at all.
    """

    def __init__(self, markdown: bool = True, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._is_terminal = sys.stdout.isatty()
        is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
        self._renders_markdown = markdown and self._is_terminal and not is_dumb
        self._block = ""  # what is on the screen raw
        self._fence = ""  # that opened the piece of code we are in
        self._line = ""  # the last, unfinished one
        self._has_begun = False
        self._is_first = self._is_waiting = True
        self._size: os.terminal_size | None = shutil.get_terminal_size()

    def __enter__(self) -> Screen:
        self._before = signal.signal(signal.SIGCONT, self._resume)
        if self._renders_markdown and not self._is_silent:
            self._put(WAITING)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGCONT, self._before)
        if self._is_silent:
            return
        if self._renders_markdown:
            self._stop_waiting()
            self._redraw_block()
        else:
            self._put("\n")

    def write(self, piece: str) -> None:
        if self._is_silent:
            return
        if not self._is_terminal:
            self._put(piece)
            return
        if not self._has_begun:
            piece = piece.lstrip()  # some models begin with a space, which should not be copied
            self._has_begun = bool(piece)
        if not self._renders_markdown:
            self._put(sanitized(piece))
            return
        self._stop_waiting()
        for part in sanitized(piece).replace("\t", TAB).splitlines(keepends=True):
            if not self._block.strip("\n"):
                part = part.lstrip("\n")  # the empty line between blocks is printed with the next
            self._put(part)
            self._block += part
            self._line += part
            if part.endswith("\n"):
                self._end_line()

    def _resume(self, *received: object) -> None:
        """Note that the program was suspended: the shell has written below the block."""
        self._size = None

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._put("\r\x1b[K")

    def _end_line(self) -> None:
        line, self._line = self._line.strip(), ""
        if self._fence:
            if line.startswith(self._fence):
                self._fence = ""
                self._redraw_block()
        elif line.startswith(FENCES):
            self._fence = line[:3]
        elif not line:
            self._redraw_block()

    def _redraw_block(self) -> None:
        """Erase the raw block and print it as markdown."""
        block, self._block, self._line = self._block, "", ""
        if not block.strip():
            return
        from .rows import is_row_count_certain, rows_of

        size = shutil.get_terminal_size()
        rows = rows_of(block, size.columns)
        is_certain = is_row_count_certain(block, size.columns) and size == self._size
        if rows >= size.lines or not is_certain:  # rows that scrolled away cannot be erased
            self._put("" if block.endswith("\n") else "\n")
        else:
            from .markdown import print_markdown  # 70 ms of imports

            self._put("\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J")
            with self._console.capture() as capture:
                print_markdown(self._console, block)
            self._put(("" if self._is_first else "\n") + capture.get().strip("\n") + "\n")
        self._is_first, self._size = False, size

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=sys.stdout, highlight=False)

    @staticmethod
    def _put(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def stats_lines(completion: Completion) -> str:
    """Return one line on an answer's tokens and speed, behind one on compiling if there was any."""
    timings, tokens = completion.timings, len(completion.token_ids)
    new = completion.prompt_tokens - completion.cached_tokens
    prefill = timings.first_token - timings.compiling
    line = (
        f"read {new} new tokens of {completion.prompt_tokens} in {prefill:.2f} s"
        f" · wrote {tokens}, {timings.decode_rate(tokens):.1f} tok/s"
        f" · {completion.finish_reason} · seed {completion.seed}"
    )
    return "\n".join(filter(None, (compiling_line(completion), line)))
