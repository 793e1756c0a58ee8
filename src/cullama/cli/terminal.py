"""Makes text fit for a terminal: control characters replaced, lines wrapped to its width."""

from __future__ import annotations

import shutil
import sys
import textwrap


def printable(text: str) -> str:
    """Return the text as standard output takes it: on a terminal sanitized, else as it is."""
    return sanitized(text) if sys.stdout.isatty() else text


def sanitized(text: str) -> str:
    """Replace control characters, with which a text could command the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)


def wrapped(text: str, indent: int = 0) -> str:
    """Wrap one line to the terminal's width; files and pipes get it whole."""
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
