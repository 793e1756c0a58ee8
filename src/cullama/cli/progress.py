"""Draws a progress bar on standard error, once a wait is long enough to need one.

In a file or a pipe it writes one line instead; none for downloads, which are logged. It measures
nothing itself: it is called with what is done.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 0.4  # seconds before a bar is drawn


class ProgressBar:
    """A context manager to be called with (done, total); the bar disappears at its end."""

    def __init__(self, title: str, in_bytes: bool = False) -> None:
        self._title, self._in_bytes = title, in_bytes
        self._started: float | None = None
        self._bar: Progress | None = None
        self._is_announced = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._started is None:
            self._started = now
        if self._bar is None and now - self._started > DELAY and done < total:
            if sys.stderr.isatty():
                self._bar = self._new_bar(total)
            elif not self._is_announced and not self._in_bytes:
                self._is_announced = True
                print(f"{self._title} …", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _new_bar(self, total: int) -> Progress:
        # 40 ms of imports, which loads faster than DELAY do not pay.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if self._in_bytes else TaskProgressColumn()
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        bar.add_task(self._title, total=total)
        bar.start()
        return bar
