"""What the library has to say while it works, on standard error."""

from __future__ import annotations

import logging
import sys


class _StandardError(logging.Handler):
    """Whatever that is at the moment: a progress bar stands in for it, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log(quiet: bool) -> None:
    """Warnings, and unless it is to be `quiet`, what is fetched and kept, too."""
    logger = logging.getLogger("cullama")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
