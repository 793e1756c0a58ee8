"""`cullama` in a process of its own, and where its source is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src"

# Whichever test is the first after a change of the kernels is told this.
COMPILING = re.compile("^compiling kernels for this processor, to be kept in .*\n", re.MULTILINE)


class Ended(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """How to start `cullama` in a process of its own, where a warning is an error."""

    cache: Path

    def command(self, *arguments: str | Path) -> list[str]:
        start = "from cullama.cli import main; main()"
        return [sys.executable, "-W", "error", "-c", start, *map(str, arguments)]

    def environment(self, changes: dict[str, str] | None = None) -> dict[str, str]:
        ours = {
            "PYTHONPATH": str(SOURCE),
            "CULLAMA_CACHE": str(self.cache),
            "CUDA_VISIBLE_DEVICES": "",  # tests name the GPU they want
        }
        return {**os.environ, **ours, **(changes or {})}

    def __call__(
        self,
        *arguments: str | Path,
        standard_input: bytes = b"",
        environment: dict[str, str] | None = None,
    ) -> Ended:
        done = subprocess.run(
            self.command(*arguments),
            input=standard_input,
            capture_output=True,
            env=self.environment(environment),
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), COMPILING.sub("", done.stderr.decode()))
