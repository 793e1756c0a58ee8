"""A small project to run make in: this Makefile, three one-line kernels, and two headers.

It controls which compilers make can find; what must happen is said in the tests.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from kernel_files import ROOT, make

SCALE = "__device__ inline float scaled(float value) { return 2 * value; }\n"
KERNEL = """{includes}
extern "C" __global__ void {name}_f32(float* out) {{ out[threadIdx.x] = {value}; }}
"""
PTX = Path("src/cullama/cuda/ptx")
TOOLS = ("make", "sh", "uname", "rm", "awk")


def folder_of_tools(folder: Path, *more: str) -> str:
    """Return a PATH with few programs, and no compiler but the given one."""
    folder.mkdir()
    for tool in (*TOOLS, *more):
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    return str(folder)


class Project:
    """A folder to run make in, with one compiler only."""

    def __init__(self, folder: Path, path: str, *variables: str) -> None:
        self.folder, self.path = folder, path
        self.variables = (f"PYTHON={sys.executable} -S", *variables)  # -S: without pip's packages

    def make(self, *arguments: str) -> tuple[int, str]:
        done = make(self.folder, *arguments, *self.variables, path=self.path)
        return done.returncode, done.stdout + done.stderr

    def edit(self, name: str, text: str | None = None) -> None:
        file = self.folder / "kernels" / name
        file.write_text(file.read_text() if text is None else text)

    def rebuilt(self) -> set[str]:
        """Run `make ptx` and return what it compiled."""
        code, said = self.make("ptx")
        assert code == 0, said
        lines = [line.split() for line in said.splitlines() if line.startswith("ptx ")]
        assert self.make("--question", "ptx") == (0, "")
        return {words[1] for words in lines}

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder / PTX)) for path in self.folder.glob(f"{PTX}/*/*")}


def write_project(folder: Path) -> Path:
    """`gather` includes common.cuh, `scale` includes it through scale.cuh, `add` has no header."""
    kernels, scripts = folder / "kernels", folder / "scripts"
    kernels.mkdir(parents=True)
    scripts.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "scripts" / "build_ptx.py", scripts)
    compiler = Path("src/cullama/cuda/compiler.py")
    (folder / compiler.parent).mkdir(parents=True)
    shutil.copy(ROOT / compiler, folder / compiler)
    (kernels / "common.cuh").write_text("#pragma once\n" + SCALE)
    (kernels / "scale.cuh").write_text('#pragma once\n#include "common.cuh"\n')
    for name, include, value in (
        ("add", "", "1.f"),
        ("gather", '#include "common.cuh"', "scaled(2.f)"),
        ("scale", '#  include "scale.cuh"', "scaled(3.f)"),
    ):
        text = KERNEL.format(includes=include, name=name, value=value)
        (kernels / f"{name}.cu").write_text(text)
    return folder
