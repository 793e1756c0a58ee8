"""The asking end of an engine's process: starts it, and talks with it over a pipe.

It knows how processes talk, and how a run's seconds are summed up; not what is compared.
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

UNSETTLED = 2  # steps: the one that reads the prompts, and the next, which finds caches cold


@dataclass(frozen=True)
class PeerRun:
    """Some prompts read, and tokens written behind them, one for each prompt a step."""

    prompts: int
    tokens: int  # of each prompt
    written: int = 0  # steps that count; 0 measures the reading itself


class Worker:
    """A peer in a process of its own; it ends with its pipe, and so with us."""

    def __init__(self, python: str, name: str, model: Path, threads: int) -> None:
        self.name = name
        self.chosen: dict[PeerRun, str] = {}  # of its variants, for each run
        self._process = subprocess.Popen(
            [python, "-m", "peers", name, str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": _path()},
        )
        loaded = self._answer()
        self.description: str = loaded["description"]
        self.variants: list[str] = loaded["variants"]

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ask(self, what: str, *details: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *details]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def seconds(self, run: PeerRun) -> float:
        """Of a run's steps, in the way that was chosen for it."""
        if run in self.chosen:
            self.ask("use", self.chosen[run])
        return self._seconds(run)

    def _seconds(self, run: PeerRun) -> float:
        """Of a step, median; or of the reading, the second time it is done."""
        if not run.written:
            return [self.steps(run, 1)[0] for _ in range(2)][1]
        return median(self.steps(run, UNSETTLED + run.written)[UNSETTLED:])

    def steps(self, run: PeerRun, steps: int) -> list[float]:
        """Seconds of each, the first of which reads the prompts."""
        return self.ask("steps", run.prompts, run.tokens, steps)

    def fastest_variant(self, run: PeerRun) -> str:
        """By the better of two trials, taken in turns."""
        times = [
            (self._trial(variant, run), variant) for _ in range(2) for variant in self.variants
        ]
        return min(times)[1]

    def _trial(self, variant: str, run: PeerRun) -> float:
        self.ask("use", variant)
        return self._seconds(run)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._mourn()
        return json.loads(line)

    def _mourn(self) -> NoReturn:
        """End as the peer did, which has said why if its exit status is 1."""
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
    """Where its Python finds this package."""
    return os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
