"""Makes text fit for a terminal: control characters replaced, lines wrapped to its width."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

# What can command a terminal, or make a line read otherwise than it is: C0 but for tab and newline,
# DEL and C1, line and paragraph separators, bidirectional overrides. Scripts need all the rest:
# joiners, direction marks, soft hyphens, spaces of other widths, the tags of flags.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202d\u202e]")


def printable(text: str) -> str:
    """Return the text as standard output takes it: on a terminal sanitized, else as it is."""
    return sanitized(text) if sys.stdout.isatty() else text


def sanitized(text: str) -> str:
    """Replace control characters, with which a text could command the terminal."""
    return UNSAFE.sub("�", text)


def wrapped(text: str, indent: int = 0) -> str:
    """Wrap one line to the terminal's width; files and pipes get it whole.

    Lines after the first are indented, by at most half of the width.
    """
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(
        columns,
        subsequent_indent=" " * min(indent, columns // 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.fill(text)


def fitted(text: str, columns: int) -> str:
    """Cut one line to so many columns, with … at its end; wide characters take two."""
    from rich.cells import cell_len, set_cell_size

    text = text.replace("\n", " ")
    if cell_len(text) <= columns:
        return text
    return f"{set_cell_size(text, max(0, columns - 1)).rstrip()}…"
