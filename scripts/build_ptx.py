"""Compiles one CUDA kernel file to PTX with the first compiler it finds, and prints which it was.

    python scripts/build_ptx.py kernels/NAME.cu FOLDER/compute_80/NAME.ptx

`src/cullama/cuda/compiler.py` finds the compiler and calls it. The script writes the PTX and a
dependency file for make; the PTX's folder names the target. Which kernels there are and which are
out of date is decided by the Makefile. It needs only Python's standard library, so that `make ptx`
needs no environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cullama.cuda import compiler as cuda
else:  # by path: the package need not be installed, nor what it imports
    COMPILER = Path(__file__).resolve().parents[1] / "src" / "cullama" / "cuda" / "compiler.py"
    found = importlib.util.spec_from_file_location("cuda_compiler", COMPILER)
    cuda = sys.modules["cuda_compiler"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(cuda)

RELEASE_PTX_VERSION = (8, 0)  # PTX ISA of CUDA 12.0, which drivers from 525 on load


def ptx_version(ptx: str) -> tuple[int, int]:
    found = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.MULTILINE)
    if not found:
        raise cuda.CompileError("the compiler's PTX has no .version line")
    return int(found[1]), int(found[2])


def without_places(ptx: str, kernels: Path) -> str:
    """Return PTX whose `.file` lines have no machine's paths: `kernels/…`, or a bare file name."""
    folder = kernels.resolve()

    def portable(line: re.Match[str]) -> str:
        path = Path(line[2]).resolve()
        ours = path.is_relative_to(folder)
        return f'{line[1]}"{path.relative_to(folder.parent) if ours else path.name}"'

    return re.sub(r'^(\s*\.file\s+\d+\s+)"([^"]*)"', portable, ptx, flags=re.MULTILINE)


def write(compiled: cuda.CompiledSource, ptx: Path, begun: float) -> None:
    """Write the dependency file, then the PTX, each atomically: make must never see PTX alone.

    Both get the time at which compilation began, so that a source edited meanwhile is newer.
    """
    ptx.parent.mkdir(parents=True, exist_ok=True)
    for text, target in ((compiled.dependencies, ptx.with_suffix(".d")), (compiled.ptx, ptx)):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_text(text)
        os.utime(temporary, (begun, begun))
        temporary.replace(target)


def build(source: Path, ptx: Path, compiler: cuda.CudaCompiler, *, release: bool) -> None:
    begun = time.time()
    compiled = compiler.compile(source, ptx)
    text = without_places(compiled.ptx, source.parent)
    if release and ptx_version(text) > RELEASE_PTX_VERSION:
        found, floor = (".".join(map(str, v)) for v in (ptx_version(text), RELEASE_PTX_VERSION))
        raise cuda.CompileError(
            f"{source}: {compiler.name} writes PTX {found}; a release needs {floor}"
        )
    write(cuda.CompiledSource(text, compiled.dependencies), ptx, begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="?", help="kernels/NAME.cu")
    parser.add_argument("ptx", type=Path, nargs="?", help="FOLDER/compute_80/NAME.ptx")
    parser.add_argument("--nvrtc", type=Path, help="folder of NVRTC and its headers")
    parser.add_argument("--release", action="store_true", help="that NVRTC only, PTX 8.0 at most")
    parser.add_argument("--which", action="store_true", help="print the compiler and build nothing")
    arguments = parser.parse_args()
    if not arguments.which and not arguments.ptx:
        parser.error("give a kernel file and the PTX file to write")
    try:
        choose = cuda.release_compiler if arguments.release else cuda.find_compiler
        compiler = choose(arguments.nvrtc)
        if arguments.which:
            print(compiler.name)
            return
        build(arguments.source, arguments.ptx, compiler, release=arguments.release)
        print(f"ptx  {cuda.target_of(arguments.ptx)}/{arguments.ptx.stem}  by {compiler.name}")
    except cuda.CompileError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
