"""A real pseudo-terminal with a program in it, and what stands on its screen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pexpect
import pyte

PATIENCE = 30  # seconds


class Terminal:
    def __init__(
        self, command: list[str], environment: dict[str, str], rows: int = 40, columns: int = 100
    ) -> None:
        environment = {**environment, "TERM": "xterm-256color"}
        for size in ("COLUMNS", "LINES"):  # of another terminal, if of any: ours has its own
            environment.pop(size, None)
        self._process: pexpect.spawn[str] = pexpect.spawn(
            command[0],
            command[1:],
            env=environment,
            dimensions=(rows, columns),
            encoding="utf-8",
            codec_errors="replace",
        )
        self.raw = ""
        self._screen = pyte.HistoryScreen(columns, rows, history=5000)
        # A terminal answers when it is asked where its cursor is.
        self._screen.write_process_input = self._process.send  # type: ignore[method-assign]
        self._stream = pyte.Stream(self._screen)

    def send(self, keys: str) -> None:
        self._process.send(keys)

    def say(self, line: str) -> None:
        """Type a line and send it."""
        self.send(line + "\r")

    def text(self) -> str:
        """All that is on the screen, or was and has been scrolled away."""
        columns = self._screen.columns
        above = ("".join(line[x].data for x in range(columns)) for line in self._screen.history.top)
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display])

    def wait_for(self, pattern: str, behind: int = 0) -> str:
        """The text, once the pattern is in it behind so many characters."""
        self.wait_until(
            lambda: re.search(pattern, self.text()[behind:]) is not None, f"{pattern!r}"
        )
        return self.text()

    def wait_until(self, has_happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not has_happened():
            assert time.monotonic() < deadline, f"no {what} in:\n{self.text()}"
            self._read()

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE
        while self._process.isalive():
            assert time.monotonic() < deadline, f"still running:\n{self.text()}"
            self._read()
        self._read()
        self._process.close()
        return int(self._process.exitstatus if self._process.exitstatus is not None else -1)

    def kill(self) -> None:
        self._process.close(force=True)

    def _read(self) -> None:
        try:
            piece = self._process.read_nonblocking(65536, timeout=0.05)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            time.sleep(0.01)
            return
        self.raw += piece
        self._stream.feed(piece)
