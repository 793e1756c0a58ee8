"""What happens when a wheel is built: the kernels are compiled first, if anything here can.

Knows make and the words for a user; not how a kernel is compiled, which is the Makefile's. PTX that
is there and up to date is shipped as it is, so `make ptx-release` decides what a release contains.
Where no CUDA compiler is found the wheel is one for the CPU, and the build says so. An editable
install compiles nothing: whoever works on the source calls `make ptx`.
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
        if version == "editable" or has_kernels_of_a_release(root):
            return
        missing = bring_up_to_date(root)
        if missing:
            state = "with kernels older than their source" if has_ptx(root) else "for the CPU only"
            self.app.display_warning(f"cullama: this is a build {state}: {missing}")


def bring_up_to_date(root: Path) -> str:
    """Compiles what `make ptx` finds to do; says what is missing where that cannot be."""
    if not shutil.which("make"):
        return "no `make`, which builds the kernels"
    if make(root, "--question", "ptx").returncode == 0:
        return ""
    asked = [sys.executable, str(root / "scripts/build_ptx.py"), "--which"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    if answer.returncode:
        return answer.stderr.strip()
    built = make(root, "ptx", f"PYTHON={sys.executable}")
    if built.returncode:
        raise RuntimeError(f"`make ptx` failed:\n{built.stdout}")
    return ""


def has_kernels_of_a_release(root: Path) -> bool:
    """A source archive brings its PTX along, and unpacking has made the files' times worthless."""
    return (root / "PKG-INFO").is_file() and has_ptx(root)


def has_ptx(root: Path) -> bool:
    return any(root.glob("src/cullama/cuda/ptx/*/*.ptx"))


def make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "--directory", str(root), *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
