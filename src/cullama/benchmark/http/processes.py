"""Starts the server and the client that a measurement over HTTP takes, and reads their CPU time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import CullamaError

LOAD_SECONDS = 600.0
END_SECONDS = 10.0


class ServerProcess:
    """`cullama serve` on a free port of this machine; ends with the `with` block.

    Args:
        arguments: of `cullama serve`.

    Raises:
        CullamaError: it does not start; its own message is on standard error.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        # Without the caller's key: it is asked on a loopback address only.
        environment = {**os.environ}
        environment.pop("CULLAMA_API_KEY", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cullama", "serve", *arguments, "--port", "0", "--quiet"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        address = re.search(r"http://[^/ ]*:(\d+)/v1", self.process.stdout.readline())
        if address is None:
            self.end()
            raise CullamaError("the server did not start; what it says is above")
        self.port = int(address[1])

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded. Raises CullamaError."""
        deadline = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10).close()
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    raise CullamaError("the server ended; what it says is above") from None
                time.sleep(0.05)
            else:
                return
        raise CullamaError(f"the server was not ready within {LOAD_SECONDS:.0f} s")

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time of the front and of the engine process so far; {} beyond Linux."""
        try:
            pid = self.process.pid
            children = Path(f"/proc/{pid}/task").glob("*/children")
            engines = [int(child) for each in children for child in each.read_text().split()]
            engine = sum(map(_cpu_seconds, engines))
            return {"front": _cpu_seconds(pid), "engine": engine}
        except OSError:
            return {}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


class ClientProcess:
    """The client of client.py, in a process of its own; ends with the `with` block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, port: int, bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Have the requests sent together; returns what `client.ask` does, and its CPU time.

        Raises:
            CullamaError: a stream that ended early, or the client itself did.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = {"port": port, "bodies": [*bodies]}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the client ended"}
        if "error" in answer:
            raise CullamaError(answer["error"])
        return answer

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def _cpu_seconds(pid: int) -> float:
    """Return a process's user and system time, from its file in /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
