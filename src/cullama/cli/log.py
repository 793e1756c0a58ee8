"""Prints the library's log on standard error."""

from __future__ import annotations

import logging
import sys


class _StandardError(logging.Handler):
    """Prints to `sys.stderr` as it is at the moment: a progress bar replaces it, so that lines
    appear above the bar. A warning is printed once, however often its file is opened."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if record.levelno == logging.WARNING:
            if line in self._warned:
                return
            self._warned.add(line)
        print(line, file=sys.stderr)


def show_log(quiet: bool) -> None:
    """Print warnings, and unless `quiet` also what is downloaded and written to disk."""
    logger = logging.getLogger("cullama")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
