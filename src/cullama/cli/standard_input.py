"""What is piped into a command."""

from __future__ import annotations

import sys

from ..errors import UsageError


def read_standard_input(what: str) -> str:
    """All of it, as text; `what` it should be is for messages."""
    if sys.stdin is None:
        raise UsageError(f"standard input is closed, expected {what} there")
    try:
        # A line typed into a pipe ends with a newline that is no part of it.
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error}") from None
