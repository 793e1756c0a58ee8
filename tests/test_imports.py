"""Every module can be imported by itself on this Python, whichever of the supported ones it is."""

from __future__ import annotations

import os
import subprocess
import sys

from command_line import SOURCE

# An integration needs the package whose name it bears.
IMPORT_ALL = """
import importlib, importlib.util, pkgutil, cullama
for module in pkgutil.walk_packages(cullama.__path__, "cullama."):
    _, _, package = module.name.partition("cullama.integrations.")
    is_missing = package and importlib.util.find_spec(package) is None
    if module.name != "cullama.__main__" and not is_missing:
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
