"""Thousands of mutated tokenizer.json files, and how the process that loaded each fared.

Processes that die or hang are replaced. Each takes the steps of
`load_tokenizer` in turn: the probe first, within the probe's own limits, where dying is what a
probe is for; then, for whatever passed, everything that a person could do to the tokenizer, where
neither a death nor a BaseException nor standing still is allowed.

    PYTHONPATH=src python tests/hostile/tokenizers_soak.py [count] [seed]
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure
from tokenizer_mutants import mutant, sources

HERE = Path(__file__).resolve().parent
PATIENCE = 20.0  # seconds of silence until a process counts as hanging

PASSED, USED, REFUSED, RAISED = "passed", "used", "refused", "raised"
DEATH, HANG = "death", "hang"


@dataclass
class Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # past the probe

    def add(self, number: int, step: str, outcome: str, message: str) -> None:
        is_past_probe = step == PASSED
        where = "" if outcome == USED else " in use" if is_past_probe else " in the probe"
        self.outcomes[outcome + where] += 1
        if is_past_probe and outcome in (DEATH, HANG, RAISED):
            self.failures.append(f"mutant {number}: {outcome} {message}"[:300])


def figures(count: int, seed: int) -> list[Figure]:
    """Outcomes of `count` mutants."""
    tally = run(count, seed)
    print(*tally.failures, sep="\n", file=sys.stderr, end="\n" if tally.failures else "")
    past = Counter(failure.split()[2] for failure in tally.failures)
    listed = ", ".join(f"{number:,} {name}" for name, number in sorted(tally.outcomes.items()))
    found = f"{past[DEATH]} deaths, {past[RAISED]} BaseExceptions, {past[HANG]} hangs"
    return [
        Figure(
            name="F7 hostile tokenizers",
            goal="0 deaths, 0 BaseExceptions, 0 hangs past the probe",
            reached=f"{count:,} mutants: {found} ({listed})",
            is_met=not tally.failures,
        )
    ]


def run(count: int, seed: int, processes: int = 2) -> Tally:
    tally, originals = Tally(), list(sources())
    with ThreadPoolExecutor(processes) as pool:
        for part in pool.map(
            lambda first: _run_some(originals, range(first, count, processes), seed),
            range(processes),
        ):
            tally.outcomes += part.outcomes
            tally.failures += part.failures
    return tally


def _run_some(originals: list[bytes], numbers: range, seed: int) -> Tally:
    tally, victim = Tally(), Victim()
    try:
        for number in numbers:
            step, outcome, message = victim.take(mutant(originals, number, seed))
            tally.add(number, step, outcome, message)
    finally:
        victim.end()
    return tally


class Victim:
    """A process that mutants may kill; it is then replaced."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src")}
        environment |= {"RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "tokenizer_victim.py"), "--mutants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def take(self, content: bytes) -> tuple[str, str, str]:
        """The last step it printed, the outcome, and a message."""
        assert self.process.stdin is not None
        self.process.stdin.write(content.hex().encode() + b"\n")
        self.process.stdin.flush()
        step = ""
        while True:
            line = self._line()
            if line in (DEATH, HANG):
                status = self.process.poll()
                self.end()
                self.start()
                return step, line, f"status {status}"
            word, _, message = line.partition(" ")
            if word != PASSED:
                return step, word, message
            step = word

    def _line(self) -> str:
        output = self.process.stdout
        assert output is not None
        line, until = b"", time.monotonic() + PATIENCE
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                return HANG
            byte = os.read(output.fileno(), 1)  # a byte at a time: what follows is the next line's
            if not byte:
                self.process.wait()
                return DEATH
            line += byte
        return line.decode(errors="replace").rstrip("\n")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    count, seed = (int(it) for it in [*sys.argv[1:], "1000", "1"][:2])
    started = time.perf_counter()
    for figure in figures(count, seed):
        print(
            figure.name,
            figure.goal,
            figure.reached,
            "met" if figure.is_met else "NOT MET",
            sep="\n",
        )
    print(f"{time.perf_counter() - started:.0f} s")
