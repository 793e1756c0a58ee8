"""Keeps keys that are typed between two prompts from being echoed into what is printed there.

They wait in the terminal's queue for the next prompt, which shows them. Ctrl-C and Ctrl-Z work.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

LOCAL_FLAGS = 3  # where `termios.tcgetattr` has them


@contextmanager
def silent_keyboard() -> Iterator[None]:
    """Turn the terminal's echo off within the `with`, but not while the program is suspended."""
    try:
        usual = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, OSError, ValueError, AttributeError):  # no terminal
        yield
        return
    silent = [*usual]
    silent[LOCAL_FLAGS] &= ~termios.ECHO

    def suspend(*received: Any) -> None:
        _set(usual)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when the program is resumed
        signal.signal(signal.SIGTSTP, suspend)
        _set(silent)

    before = signal.signal(signal.SIGTSTP, suspend)
    _set(silent)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
        _set(usual)


def _set(attributes: list[Any]) -> None:
    with suppress(termios.error, OSError, ValueError):  # the terminal was closed
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, attributes)
