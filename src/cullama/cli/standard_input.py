"""Reads text that is piped into a command: in place of its prompt, in the prompt, or behind it.

A `-` stands for standard input, and is waited for. What is piped beside a prompt is read as well,
but an input that stays silent, as programs that start other programs leave open, is not waited for.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Sequence

import click

from ..errors import CullamaError, UsageError

PATIENCE = 1.0  # seconds for the first byte of an input that was not asked for

DEFAULT_PROMPT = "Once upon a time"
DASH = "-"


def read_prompt(words: Sequence[str], what: str, quiet: bool) -> str | None:
    """Return a command's text: its words, and what is piped into it; None where there is neither.

    Args:
        words: of the command line; a `-` among them stands for standard input, which at a terminal
            only a lone one does.
        what: is read, for messages: "the prompt".
        quiet: do not say that piped text was added.

    Raises:
        UsageError: standard input is not UTF-8 text, or is closed where a `-` asks for it.
    """
    if [*words] == [DASH] or (DASH in words and not _is_terminal()):
        piped = read_standard_input(what)
        return "\n".join(piped if word == DASH else word for word in words)
    typed = " ".join(words)
    piped = read_standard_input(what) if _is_piped(quiet) else ""
    if typed and piped and not quiet:
        lines = piped.count("\n") + 1
        note = f"standard input was added to {what}: {lines} line{'s' * (lines > 1)}"
        click.secho(note, dim=True, err=True)
    return "\n".join(filter(None, (typed, piped))) if words or piped else None


def read_standard_input(what: str) -> str:
    """Return all of standard input as text; `what` is expected there, for messages."""
    if sys.stdin is None:
        raise UsageError(f"standard input is closed, expected {what} there")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error}") from None
    except OSError as error:
        raise CullamaError(f"cannot read standard input: {error.strerror or error}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # `echo` and typed lines end with a newline that is not part of the text.
    return text.removesuffix("\n")


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _is_piped(quiet: bool) -> bool:
    """Whether a pipe, a file or a socket is to be read; one that stays silent is not."""
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # it is closed, or stands for no file
        return False
    if stat.S_ISREG(mode):
        return True
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    if select.select([descriptor], [], [], PATIENCE)[0]:
        return True
    if not quiet:
        click.secho("standard input is silent, and not read; - waits for it", dim=True, err=True)
    return False
