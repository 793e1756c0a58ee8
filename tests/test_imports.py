"""Every module can be imported by itself on this Python, whichever of the supported ones it is."""

from __future__ import annotations

import os
import subprocess
import sys

from command_line import SOURCE

IMPORT_ALL = """
import importlib, pkgutil, cullama
for module in pkgutil.walk_packages(cullama.__path__, "cullama."):
    if module.name != "cullama.__main__":
        importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_without_a_warning() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
