"""What may be shown on a terminal: text without the characters that command it, in its width."""

from __future__ import annotations

import shutil
import sys
import textwrap


def printable(text: str) -> str:
    """Without control characters, with which a text could command the terminal.

    What goes to a file or a pipe stays as it is.
    """
    return shown(text) if sys.stdout.isatty() else text


def shown(text: str) -> str:
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)


def wrapped(text: str, indent: int = 0) -> str:
    """One line of ours in as many as the terminal's width asks for."""
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(
        columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.fill(text)
