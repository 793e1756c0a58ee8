"""The client of an engine's process: start it, and send requests over a pipe.

It also reduces the seconds of a run's steps to a figure; what is compared, `comparison` defines.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

SCRIPTS = Path(__file__).resolve().parents[1]

WARM_UP_STEPS = 2  # the prefill, and the next step, which runs with cold caches


@dataclass(frozen=True)
class PeerRun:
    """Prompts that are prefilled, and then decoded by one token a step each."""

    prompts: int
    tokens: int  # of each prompt
    written: int = 0  # decode steps that are measured; 0 measures the prefill


class Worker:
    """A peer in a process of its own, which ends when its pipe is closed."""

    def __init__(self, python: str, name: str, model: Path, threads: int) -> None:
        self.name = name
        self.chosen: dict[PeerRun, str] = {}  # the variant for each run
        self._process = subprocess.Popen(
            [python, "-m", "peers", name, str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": _path()},
        )
        loaded = self._response()
        self.description: str = loaded["description"]
        self.variants: list[str] = loaded["variants"]

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ask(self, what: str, *details: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *details]) + "\n")
        self._process.stdin.flush()
        return self._response()

    def seconds(self, run: PeerRun) -> float:
        """Return the seconds of a run, with the variant that was chosen for it."""
        if run in self.chosen:
            self.ask("use", self.chosen[run])
        return self._seconds(run)

    def _seconds(self, run: PeerRun) -> float:
        """Return the median of the decode steps, or the second of two prefills."""
        if not run.written:
            return [self.steps(run, 1)[0] for _ in range(2)][1]
        return median(self.steps(run, WARM_UP_STEPS + run.written)[WARM_UP_STEPS:])

    def steps(self, run: PeerRun, steps: int) -> list[float]:
        """Return the seconds of each step; the first prefills the prompts."""
        return self.ask("steps", run.prompts, run.tokens, steps)

    def fastest_variant(self, run: PeerRun) -> str:
        """Return the variant with the best of two trials, taken in turns."""
        times = [
            (self._trial(variant, run), variant) for _ in range(2) for variant in self.variants
        ]
        return min(times)[1]

    def _trial(self, variant: str, run: PeerRun) -> float:
        self.ask("use", variant)
        return self._seconds(run)

    def _response(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._exit_with_peer()
        return json.loads(line)

    def _exit_with_peer(self) -> NoReturn:
        """Exit as the peer did; it has printed the reason if its status is 1."""
        self.close()
        status = self._process.returncode
        raise SystemExit(1 if status == 1 else f"{self.name} ended with exit status {status}")

    def close(self) -> None:
        with self._process:  # closes the pipes, and waits
            pass

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _path() -> str:
    """Return the PYTHONPATH with which the process finds this package."""
    return os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
