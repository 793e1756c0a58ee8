"""Reads text that is piped into a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import UsageError

DEFAULT_PROMPT = "Once upon a time"


def read_prompt(words: Sequence[str]) -> str:
    """Return a command's PROMPT: no words give the default, "-" reads standard input."""
    if not words:
        return DEFAULT_PROMPT
    return read_standard_input("the prompt") if [*words] == ["-"] else " ".join(words)


def read_standard_input(what: str) -> str:
    """Return all of standard input as text; `what` is expected there, for messages."""
    if sys.stdin is None:
        raise UsageError(f"standard input is closed, expected {what} there")
    try:
        # `echo` and typed lines end with a newline that is not part of the text.
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error}") from None
