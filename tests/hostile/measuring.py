"""What it costs to refuse a file: seconds, and growth of memory, each in a process of its own.

Run as a program it imports cullama, then forks for every path it is given, so that each attempt
begins with the same memory and a crash or a hang harms no other. It needs Linux.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
MAX_SECONDS = 20  # seconds until an attempt is ended


@dataclass(frozen=True)
class Cost:
    seconds: float  # of the processor: others may use the machine, too
    growth: int  # bytes
    outcome: str  # "ModelFileError: message", "accepted", "died of signal 9"


def refusal_costs(paths: Sequence[Path]) -> list[Cost]:
    """Of opening each path as a model."""
    ended = subprocess.run(
        [sys.executable, __file__, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Cost(*json.loads(line)) for line in ended.stdout.splitlines()]


def _peak() -> int:
    """The peak memory of this process. (`ru_maxrss` would count its parent's, too.)"""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _attempt(open_model: Callable[[Path], object], path: Path) -> Cost:
    before, started = _peak(), time.process_time()
    try:
        open_model(path)
        outcome = "accepted"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    return Cost(time.process_time() - started, _peak() - before, outcome)


def _in_a_fork(open_model: Callable[[Path], object], path: Path) -> Cost:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(MAX_SECONDS)
        cost = _attempt(open_model, path)
        os.write(writing, json.dumps([cost.seconds, cost.growth, cost.outcome[:2000]]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        return Cost(float(MAX_SECONDS), 0, f"died of signal {os.WTERMSIG(status)}")
    return Cost(*json.loads(answer))


def main() -> None:
    sys.path.insert(0, str(SOURCE))
    from cullama.checkpoint.opening import open_checkpoint

    for late in ("gguf", "safetensors"):  # what the first file would have to wait for
        importlib.import_module(f"cullama.checkpoint.{late}")
    for argument in sys.argv[1:]:
        cost = _in_a_fork(open_checkpoint, Path(argument))
        print(json.dumps([cost.seconds, cost.growth, cost.outcome]), flush=True)


if __name__ == "__main__":
    main()
