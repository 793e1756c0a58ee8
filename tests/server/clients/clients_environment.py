"""The environment of other clients, made by `make clients`: runs their programs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".venv" / "clients"
SECONDS = 240  # of one program; they are done in a few, litellm in ten


def needs_clients() -> None:
    """Skip the test where the environment is missing; on CI, which makes it, fail."""
    if (FOLDER / ".made").exists():
        return
    reason = f"there is no {FOLDER.relative_to(ROOT)}; `make clients` makes it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(
    program: str, *arguments: str, folder: Path, environment: dict[str, str] | None = None
) -> str:
    """Run a program of the environment, and return what it printed.

    Args:
        program: a command of the environment, or a Python file beside this one.
        folder: is its home, so that it finds no settings of the user's.
        environment: of its variables, those that it has beside PATH and HOME.
    """
    own = Path(__file__).with_name(program)
    command = [str(FOLDER / "bin" / program)]
    if own.suffix == ".py":
        command = [str(FOLDER / "bin" / "python"), str(own)]
    ended = subprocess.run(
        [*command, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def ask(program: str, *arguments: str, folder: Path) -> Any:
    """Run one of the programs beside this file, and return the JSON that it printed."""
    return json.loads(run(program, *arguments, folder=folder).splitlines()[-1])
