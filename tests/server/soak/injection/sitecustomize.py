"""Injects faults of the emulated GPU into a running engine process: Python imports it at its start.

What the file named by CULLAMA_SOAK_FAULTS holds is what fails from then on; the file is removed
once that is so. Other processes than the engine's are left alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

PERIOD = 0.01  # seconds


def watch(path: Path) -> None:
    while True:
        time.sleep(PERIOD)
        if not path.exists():
            continue
        from cullama.emulation.device import loaded_driver

        if (driver := loaded_driver()) is not None:
            ctypes.CDLL(str(driver)).fakecuda_set(b"faults", path.read_bytes())
            path.unlink()


if (name := os.environ.get("CULLAMA_SOAK_FAULTS")) and any(
    "cullama.server.process.worker" in each for each in sys.orig_argv
):
    threading.Thread(target=watch, args=(Path(name),), daemon=True).start()
