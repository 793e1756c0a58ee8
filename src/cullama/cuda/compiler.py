"""Finds a CUDA compiler, and compiles CUDA source to PTX.

It looks for nvcc on PATH, then for pip's; for NVRTC, the compiler as a library, where there is no
nvcc or no gcc: in a toolkit and in this Python's packages. It imports nothing but Python's
standard library, because `scripts/build_ptx.py` loads this file before the package is installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

REMEDY = (
    "no CUDA compiler found (looked for nvcc on PATH and in this Python's packages, which needs "
    "gcc, and for NVRTC): `make ptx-release` fetches NVRTC (24 MB) and builds with it, and "
    "`pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*' cuda-pathfinder` brings nvcc (270 MB)"
)


class CompileError(Exception):
    """A compilation failed; the message is what the compiler printed."""


class NoCudaCompilerError(CompileError):
    """There is no CUDA compiler."""


@dataclass(frozen=True)
class CompiledSource:
    ptx: str
    dependencies: str  # the text of a make dependency file for the PTX


class CudaCompiler(Protocol):
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
                raise CompileError(done.stdout.strip())
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
                raise CompileError(log.strip() or f"NVRTC failed with code {failed}")
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
            raise CompileError(f"NVRTC does not load: {error}") from None

    def _check(self, code: int) -> None:
        if code:
            raise CompileError(f"{self.library} returned code {code}")


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


def fetched_nvrtc() -> Path | None:
    """Return the folder of the NVRTC that `make` fetched into this environment, if there is one."""
    return next(Path(sys.prefix).glob("nvrtc-*"), None)


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


def find_compiler(nvrtc: Path | None) -> CudaCompiler:
    """Return nvcc if it works, else NVRTC from the folder `nvrtc`, else from likely folders."""
    fetched = [nvrtc] if nvrtc else []
    compiler = nvcc_on_path() or nvcc_of_pip() or nvrtc_under([*fetched, *likely_folders()])
    if compiler is None:
        raise NoCudaCompilerError(REMEDY)
    return compiler


def release_compiler(nvrtc: Path | None) -> CudaCompiler:
    """Return the NVRTC in the folder, and no other: releases do not depend on the machine."""
    compiler = nvrtc_under([nvrtc]) if nvrtc else None
    if compiler is None:
        message = f"no NVRTC with its headers in {nvrtc}: `make ptx-release` fetches them"
        raise NoCudaCompilerError(message)
    return compiler


def target_of(ptx: Path) -> str:
    """Return the target, such as compute_80 or compute_90a, which the folder is named for."""
    return ptx.parent.name
