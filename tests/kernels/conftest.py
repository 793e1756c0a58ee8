"""Fixtures: the PTX that `make ptx` built, and that of a release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernel_files import NVRTC, ROOT, make
from ptxas import Assembler, assembler, find_ptxas


@pytest.fixture(scope="session")
def ptxas() -> Assembler:
    path = find_ptxas()
    if path is None:
        pytest.skip("no ptxas (CUDA's assembler) on this machine")
    return assembler(path)


@pytest.fixture(scope="session")
def built() -> Path:
    """Return the folder of PTX that `make ptx` built."""
    folder = ROOT / "src" / "cullama" / "cuda" / "ptx"
    if any(folder.glob("*/*.ptx")):
        return folder
    script = [sys.executable, str(ROOT / "scripts" / "build_ptx.py")]
    asked = [*script, "--which", "--nvrtc", str(NVRTC)]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("no CUDA compiler on this machine, so no PTX")
    pytest.fail("no PTX: run `make ptx` first")


@pytest.fixture(scope="session")
def released() -> Path:
    """Return a separate folder of PTX as in a release, compiled by NVRTC 12.0."""
    if not NVRTC.is_dir():
        pytest.skip("NVRTC 12.0, which builds releases, is not in .venv: `make test` fetches it")
    folder = ROOT / "build" / "ptx-release"
    done = make(ROOT, "ptx", f"PTX_FOLDER={folder.relative_to(ROOT)}", "RELEASE=--release")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(params=["built", "released"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Return each of the two folders."""
    path = request.getfixturevalue(request.param)
    assert isinstance(path, Path)
    return path
