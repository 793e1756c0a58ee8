"""Prints the library's log on standard error."""

from __future__ import annotations

import logging
import sys


class _StandardError(logging.Handler):
    """Prints to `sys.stderr` as it is at the moment: a progress bar replaces it, so that lines
    appear above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log(quiet: bool) -> None:
    """Print warnings, and unless `quiet` also what is downloaded and written to disk."""
    logger = logging.getLogger("cullama")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
