"""Paths of kernels and their PTX, contents of a PTX file, and calls of make.

It reads the layout of the project and PTX's `.entry`; it computes nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NVRTC = ROOT / ".venv" / "nvrtc-12.0"  # where `make test` and `make ptx-release` put it
TARGETS = ("compute_80", "compute_90a")
KERNELS = sorted(path.stem for path in (ROOT / "kernels").glob("*.cu"))


def make(
    folder: Path, *arguments: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run make in `folder`, without the variables of an outer make; `path` replaces PATH."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ours |= {"LC_ALL": "C"} | ({} if path is None else {"PATH": path})
    ours.pop("MFLAGS", None)
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=ours,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def entries(ptx: str) -> dict[str, list[str]]:
    """Return the argument types of each kernel in a PTX file: `.u64`, `.align 4 .b8[96]`."""
    found = re.findall(r"^\.visible \.entry (\w+)\(([^)]*)\)", ptx, re.MULTILINE)
    return {name: [_type(line) for line in body.split(",") if line.strip()] for name, body in found}


def _type(parameter: str) -> str:
    """Remove what nvcc 13 adds about a pointer's target, which does not affect how it is passed."""
    words = re.sub(r"\.ptr( \.\w+)?( \.align \d+)?", "", parameter).split()
    name, size = re.fullmatch(r"(\w+)(\[\d+\])?", words[-1]).groups("")  # type: ignore[union-attr]
    assert name
    return " ".join(words[1:-1]) + size


def version(ptx: str) -> tuple[int, int]:
    found = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.MULTILINE)
    assert found, "no .version line"
    return int(found[1]), int(found[2])
