"""Starts the engine process, and sends to and receives from it.

Sending never blocks: an event loop may send. It knows nothing of what the messages mean.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe

from .messages import FromEngine, Load, ToEngine

# With this process's search path, so that a file in the current folder is never imported instead.
PROGRAM = "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptor})"


class Child:
    """One engine process, which loads what `load` says; it ends when this one does."""

    def __init__(self, load: Load) -> None:
        self._pipe, theirs = Pipe()
        program = PROGRAM.format(
            path=sys.path,
            module=f"{__package__}.worker",
            descriptor=theirs.fileno(),
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._outbox: queue.SimpleQueue[ToEngine | Load | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="engine-outbox", daemon=True)
        self._sender.start()
        self._outbox.put(load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        self._outbox.put(message)

    def receive(self, seconds: float) -> FromEngine | None:
        """Return the next message; None where none comes in time.

        Raises:
            EOFError: the process has ended, or a message was cut short.
        """
        try:
            message: FromEngine | None = self._pipe.recv() if self._pipe.poll(seconds) else None
        except OSError as error:  # connection reset
            raise EOFError from error
        return message

    def kill(self) -> None:
        """Kill the process, from any thread: `receive` then raises, and its caller may `end`."""
        self._process.kill()

    def end(self, patience: float = 0.0) -> str:
        """End the process, and return how it ended; kills it after `patience` seconds.

        Only for the thread that receives: nothing may use the pipe while it is closed.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()
        code = self._process.wait()
        self._outbox.put(None)
        self._sender.join()
        self._pipe.close()
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}"

    def _send_all(self) -> None:
        with suppress(OSError):  # the process has ended: `receive` says so
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)
