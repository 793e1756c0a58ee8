"""Shows how far a list of prompts is generated: a bar on a terminal, a line in a notebook.

It draws nothing in the first second, nothing where standard error is a file or a pipe, and nothing
for calls from threads other than the main one, whose bars would overwrite each other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 1.0  # seconds before anything is drawn
INTERVAL = 0.2  # seconds between two drawings


class CountedOutput(Protocol):
    """What is counted of the output of a sample."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def is_closed(self) -> bool: ...


class CountedSample(Protocol):
    @property
    def output(self) -> CountedOutput: ...


class Display(Protocol):
    """Draws how many texts have ended, of how many, and how fast."""

    def update(self, ended: int, total: int, tokens_per_second: float) -> None: ...
    def stop(self) -> None: ...


class GenerationProgress:
    """A context manager, to be called between steps of generating some samples."""

    def __init__(self, samples: Sequence[CountedSample], is_wanted: bool) -> None:
        self._samples = samples
        self._make_display = _display_here() if is_wanted else None
        self._display: Display | None = None
        self._started = time.monotonic()
        self._next = self._started + DELAY

    def __call__(self) -> None:
        now = time.monotonic()
        if self._make_display is not None and now >= self._next:
            self._next = now + INTERVAL
            self._display = self._display or self._make_display()
            self._update(self._display)

    def __enter__(self) -> GenerationProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._display is not None:
            self._update(self._display)
            self._display.stop()

    def _update(self, display: Display) -> None:
        outputs = [sample.output for sample in self._samples]
        tokens = sum(len(output.token_ids) for output in outputs)
        ended = sum(output.is_closed for output in outputs)
        display.update(ended, len(outputs), tokens / (time.monotonic() - self._started))


def _display_here() -> Callable[[], Display] | None:
    """Return what makes the display that suits the place of the call; None where none does."""
    if threading.current_thread() is not threading.main_thread():
        return None
    if _is_in_notebook():
        return NotebookLine
    return TerminalBar if sys.stderr is not None and sys.stderr.isatty() else None


def _is_in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; IPython at a terminal is a terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


class TerminalBar(Display):
    """A bar on standard error that disappears at the end."""

    def __init__(self) -> None:
        from rich.console import Console  # 40 ms of imports, only where something is drawn
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bar: Progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            Remaining(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("generating", total=None, speed="")
        self._bar.start()

    def update(self, ended: int, total: int, tokens_per_second: float) -> None:
        speed = f"{tokens_per_second:.0f} tok/s"
        self._bar.update(self._task, completed=ended, total=total, speed=speed)

    def stop(self) -> None:
        self._bar.stop()


class NotebookLine(Display):
    """A line below the cell, replaced as it goes; the last one stays.

    Plain text, which needs no extension of the notebook: rich's bar needs ipywidgets.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, ended: int, total: int, tokens_per_second: float) -> None:
        from IPython.display import display

        line = {"text/plain": f"generated {ended} of {total} · {tokens_per_second:.0f} tok/s"}
        if self._handle is None:
            self._handle = display(line, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(line, raw=True)

    def stop(self) -> None:
        """The last line stays."""
