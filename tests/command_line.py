"""Run `cullama` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src"

# Printed in the first test after a change of the kernels.
COMPILING = re.compile("^compiling kernels for this processor, to be kept in .*\n", re.MULTILINE)


class Ended(NamedTuple):
    """A process's exit status and output."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """Starts `cullama` in a process of its own, in which warnings are errors."""

    cache: Path

    def command(self, *arguments: str | Path) -> list[str]:
        start = "from cullama.cli import main; main()"
        return [sys.executable, "-W", "error", "-c", start, *map(str, arguments)]

    def environment(self, changes: dict[str, str] | None = None) -> dict[str, str]:
        ours = {
            "PYTHONPATH": str(SOURCE),
            "CULLAMA_CACHE": str(self.cache),
            "XDG_DATA_HOME": str(self.cache / "data"),
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
