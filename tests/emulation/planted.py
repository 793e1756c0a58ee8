"""Compiles the kernels with planted bugs, with the project's own compiler script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
COMPILER = HERE.parents[1] / "scripts" / "build_ptx.py"


def compiled(name: str, folder: Path) -> Path:
    """Return kernels/NAME.cu as PTX for compute 8.0; skips the test where there is no compiler."""
    source, target = HERE / "kernels" / f"{name}.cu", folder / "compute_80" / f"{name}.ptx"
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, str(COMPILER), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no CUDA compiler found" in done.stderr:
        pytest.skip("needs nvcc or NVRTC")
    assert done.returncode == 0, done.stderr
    return target
