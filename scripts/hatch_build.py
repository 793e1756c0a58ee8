"""Hatchling's build hook: compiles the kernels and builds the page before a wheel is built.

It calls `make ptx`, and leaves to the Makefile how kernels are compiled. PTX that is up to date is
shipped as it is, so `make ptx-release` decides what a release contains. Where no CUDA compiler is
found the wheel is for the CPU only, with a warning; where there is no node, it is without the page.
Editable installs compile and build nothing: run `make ptx` and `make web` in the source folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            return
        if missing := update_page(root):
            self.app.display_warning(f"cullama: this build is without the server's page: {missing}")
        if has_kernels_of_a_release(root):
            return
        missing = update_kernels(root)
        if missing:
            state = "with kernels older than their source" if has_ptx(root) else "for the CPU only"
            self.app.display_warning(f"cullama: this build is {state}: {missing}")


def update_kernels(root: Path) -> str:
    """Compile the kernels that are out of date; return what is missing to do so, or ""."""
    if not shutil.which("make"):
        return "no `make`, which builds the kernels"
    if make(root, "--question", "ptx").returncode == 0:
        return ""
    command = [sys.executable, str(root / "scripts/build_ptx.py"), "--which"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return answer.stderr.strip()
    built = make(root, "ptx", f"PYTHON={sys.executable}")
    if built.returncode:
        raise RuntimeError(f"`make ptx` failed:\n{built.stdout}")
    return ""


def update_page(root: Path) -> str:
    """Build the page where it is not; return what is missing to do so, or ""."""
    if (root / "src/cullama/server/web/index.html").is_file() or not (root / "web").is_dir():
        return ""
    if not (shutil.which("make") and shutil.which("npm")):
        return "no node with npm, and no page that `make web` has built"
    built = make(root, "web", f"PYTHON={sys.executable}")
    return f"`make web` failed:\n{built.stdout}" if built.returncode else ""


def has_kernels_of_a_release(root: Path) -> bool:
    """Return whether this is a source archive with PTX; unpacking makes file times meaningless."""
    return (root / "PKG-INFO").is_file() and has_ptx(root)


def has_ptx(root: Path) -> bool:
    return any(root.glob("src/cullama/cuda/ptx/*/*.ptx"))


def make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "--directory", str(root), *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
