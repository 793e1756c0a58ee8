"""Compiles one CUDA kernel file to PTX with the first compiler it finds, and prints which it was.

    python scripts/build_ptx.py kernels/NAME.cu FOLDER/compute_80/NAME.ptx

It looks for nvcc on PATH, then for pip's; for NVRTC where there is no nvcc or no gcc. It writes the
PTX and a dependency file for make; the PTX's folder names the target. Which kernels there are and
which are out of date is decided by the Makefile. It needs only Python's standard library, so that
`make ptx` needs no environment.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

RELEASE_PTX_VERSION = (8, 0)  # PTX ISA of CUDA 12.0, which drivers from 525 on load
REMEDY = (
    "no CUDA compiler found (looked for nvcc on PATH and in this Python's packages, which needs "
    "gcc, and for NVRTC): `make ptx-release` fetches NVRTC (24 MB) and builds with it, and "
    "`pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*' cuda-pathfinder` brings nvcc (270 MB)"
)


class BuildError(Exception):
    """A build that failed; its message is what the compiler printed, or why there is none."""


@dataclass(frozen=True)
class CompiledSource:
    ptx: str
    dependencies: str  # the text of a make dependency file for the PTX


class Compiler(Protocol):
    @property
    def name(self) -> str: ...

    def compile(self, source: Path, ptx: Path) -> CompiledSource: ...


# ------------------------------------------------------------------------------------------- nvcc


@dataclass(frozen=True)
class Nvcc:
    path: str

    @property
    def name(self) -> str:
        answer = subprocess.run(
            [self.path, "--version"], capture_output=True, text=True, check=False
        )
        release = re.search(r"release ([\d.]+)", answer.stdout)
        return f"nvcc {release[1] if release else '?'} ({self.path})"

    def compile(self, source: Path, ptx: Path) -> CompiledSource:
        with TemporaryDirectory() as folder:
            written, dependencies = Path(folder) / "ptx", Path(folder) / "dependencies"
            done = subprocess.run(
                [
                    *(self.path, "-ptx", f"-arch={target_of(ptx)}", "-O3", "-std=c++17"),
                    *("-lineinfo", f"-I{source.parent}", "-MMD", "-MP", "-MF", str(dependencies)),
                    *("-MT", str(ptx), str(source), "-o", str(written)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BuildError(done.stdout.strip())
            print(done.stdout, end="", file=sys.stderr)  # warnings
            return CompiledSource(written.read_text(), dependencies.read_text())


def nvcc_on_path() -> Nvcc | None:
    path = shutil.which("nvcc")
    return Nvcc(path) if path and has_host_compiler() else None


def nvcc_of_pip() -> Nvcc | None:
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:
        return None
    path = find_nvidia_binary_utility("nvcc")
    return Nvcc(path) if path and has_host_compiler() else None


def has_host_compiler() -> bool:
    """Return whether there is a gcc: nvcc preprocesses with it, even to write PTX only."""
    return bool(os.environ.get("NVCC_CCBIN") or shutil.which("gcc"))


# ------------------------------------------------------------------------------------------ NVRTC


@dataclass(frozen=True)
class Nvrtc:
    library: Path
    headers: Path

    @property
    def name(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._load().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"NVRTC {major.value}.{minor.value}"

    def compile(self, source: Path, ptx: Path) -> CompiledSource:
        library, program = self._load(), ctypes.c_void_p()
        text, name = source.read_bytes(), str(source).encode()
        self._check(
            library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None),
        )
        try:
            options = self._options(source, ptx)
            failed = library.nvrtcCompileProgram(
                program, len(options), (ctypes.c_char_p * len(options))(*options)
            )
            log = self._text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            if failed:
                raise BuildError(log.strip() or f"NVRTC failed with code {failed}")
            print(log, end="", file=sys.stderr)  # warnings
            written = self._text(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
            return CompiledSource(written, dependency_file(source, ptx))
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _options(self, source: Path, ptx: Path) -> list[bytes]:
        # NVRTC always optimises; it has no -O3.
        options = [
            *(f"--gpu-architecture={target_of(ptx)}", "--std=c++17", "--generate-line-info"),
            *(f"-I{source.parent}", f"-I{self.headers}"),
        ]
        return [option.encode() for option in options]

    def _text(
        self,
        size_of: Callable[..., int],
        read: Callable[..., int],
        program: ctypes.c_void_p,
    ) -> str:
        size = ctypes.c_size_t()
        self._check(size_of(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(read(program, text))
        return text.value.decode()

    def _load(self) -> ctypes.CDLL:
        try:
            # NVRTC opens the library of its built-in headers by name, and does not find it in
            # pip's folders unless it is loaded already.
            for builtins in self.library.parent.glob("libnvrtc-builtins.so*"):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(self.library))
        except OSError as error:
            raise BuildError(f"NVRTC does not load: {error}") from None

    def _check(self, code: int) -> None:
        if code:
            raise BuildError(f"{self.library} returned code {code}")


def nvrtc_under(folders: Iterable[Path]) -> Nvrtc | None:
    """Return NVRTC with the headers of the same CUDA, from the first folder that has both."""
    for folder in folders:
        for library, headers in nvrtc_places(folder):
            if (headers / "cuda_fp16.h").is_file():
                return Nvrtc(library, headers)
    return None


def nvrtc_places(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (library, headers) as in a toolkit, and as in pip's wheels for CUDA 13 and for 12."""
    for library in sorted(folder.glob("lib*/libnvrtc.so")):
        yield library, folder / "include"
    for library in sorted(folder.glob("nvidia/cu[0-9]*/lib/libnvrtc.so.[0-9]*")):
        yield library, library.parents[1] / "include"
    for library in sorted(folder.glob("nvidia/cuda_nvrtc/lib/libnvrtc.so.[0-9]*")):
        yield library, folder / "nvidia/cuda_runtime/include"


def likely_folders() -> list[Path]:
    """Return the toolkit whose nvcc is on PATH but has no gcc, and this Python's packages."""
    nvcc = shutil.which("nvcc")
    toolkit = [Path(nvcc).resolve().parents[1]] if nvcc else []
    return [*toolkit, *(Path(entry) for entry in sys.path if entry)]


def dependency_file(source: Path, ptx: Path) -> str:
    """Return the dependency file that nvcc -MMD -MP would write; NVRTC does not tell what it read.

    Files included within an #if are always listed, which can only cause a needless compilation.
    """
    read = included_by(source, source.parent)
    files = [source, *(file for file in read if file != source)]
    listed = " \\\n    ".join(map(str, files))
    # With an empty rule for each header, a deleted one is out of date and not an error.
    return f"{ptx} : {listed}\n" + "".join(f"\n{file}:\n" for file in files[1:])


def included_by(source: Path, folder: Path) -> list[Path]:
    """Return `source` and the files that it includes in quotes, recursively; skips missing ones."""
    found = [source]
    for file in found:  # grows during the loop
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.MULTILINE):
            places = (file.parent / name, folder / name)
            header = next((place for place in places if place.is_file()), None)
            if header is not None and header not in found:
                found.append(header)
    return found


# ---------------------------------------------------------------------------------- which compiler


def find_compiler(nvrtc: Path | None) -> Compiler:
    """Return nvcc if it works, else NVRTC from the folder `nvrtc`, else from likely folders."""
    fetched = [nvrtc] if nvrtc else []
    compiler = nvcc_on_path() or nvcc_of_pip() or nvrtc_under([*fetched, *likely_folders()])
    if compiler is None:
        raise BuildError(REMEDY)
    return compiler


def release_compiler(nvrtc: Path | None) -> Compiler:
    """Return the NVRTC in the folder, and no other: releases do not depend on the machine."""
    compiler = nvrtc_under([nvrtc]) if nvrtc else None
    if compiler is None:
        raise BuildError(f"no NVRTC with its headers in {nvrtc}: `make ptx-release` fetches them")
    return compiler


# ------------------------------------------------------------------------------------------ output


def target_of(ptx: Path) -> str:
    """Return the target, such as compute_80 or compute_90a, which the folder is named for."""
    return ptx.parent.name


def ptx_version(ptx: str) -> tuple[int, int]:
    found = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.MULTILINE)
    if not found:
        raise BuildError("the compiler's PTX has no .version line")
    return int(found[1]), int(found[2])


def without_places(ptx: str, kernels: Path) -> str:
    """Return PTX whose `.file` lines have no machine's paths: `kernels/…`, or a bare file name."""
    folder = kernels.resolve()

    def portable(line: re.Match[str]) -> str:
        path = Path(line[2]).resolve()
        ours = path.is_relative_to(folder)
        return f'{line[1]}"{path.relative_to(folder.parent) if ours else path.name}"'

    return re.sub(r'^(\s*\.file\s+\d+\s+)"([^"]*)"', portable, ptx, flags=re.MULTILINE)


def write(compiled: CompiledSource, ptx: Path, begun: float) -> None:
    """Write the dependency file, then the PTX, each atomically: make must never see PTX alone.

    Both get the time at which compilation began, so that a source edited meanwhile is newer.
    """
    ptx.parent.mkdir(parents=True, exist_ok=True)
    for text, target in ((compiled.dependencies, ptx.with_suffix(".d")), (compiled.ptx, ptx)):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_text(text)
        os.utime(temporary, (begun, begun))
        temporary.replace(target)


def build(source: Path, ptx: Path, compiler: Compiler, *, release: bool) -> None:
    begun = time.time()
    compiled = compiler.compile(source, ptx)
    text = without_places(compiled.ptx, source.parent)
    if release and ptx_version(text) > RELEASE_PTX_VERSION:
        found, floor = (".".join(map(str, v)) for v in (ptx_version(text), RELEASE_PTX_VERSION))
        raise BuildError(f"{source}: {compiler.name} writes PTX {found}; a release needs {floor}")
    write(CompiledSource(text, compiled.dependencies), ptx, begun)


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
        choose = release_compiler if arguments.release else find_compiler
        compiler = choose(arguments.nvrtc)
        if arguments.which:
            print(compiler.name)
            return
        build(arguments.source, arguments.ptx, compiler, release=arguments.release)
        print(f"ptx  {target_of(arguments.ptx)}/{arguments.ptx.stem}  by {compiler.name}")
    except BuildError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
