"""Turns CUDA source, or PTX, into kernels: their names, signatures, and the lines they stand on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from ...cuda.compiler import CompileError, NoCudaCompilerError, fetched_nvrtc, find_compiler
from ...emulation.ptx import Source
from ...errors import CullamaError, UsageError

CELL = "kernel.cu"  # what compilers call source that comes from no file
_ERROR = re.compile(
    r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): (?:catastrophic )?error(?: \S+)?: (?P<what>.*)"
)


class KernelSourceError(CullamaError):
    """A kernel cannot be compiled or used; `line` is where, in its source, if that is known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class KernelSource:
    """CUDA source or PTX of some kernels, and the PTX of it."""

    name: str  # of the file
    text: str  # as it was given
    ptx: str
    compiler: str  # "" for PTX

    @cached_property
    def kernels(self) -> list[str]:
        return re.findall(r"\.visible \.entry (\w+)", self.ptx)

    def line(self, number: int) -> str:
        """Return the text of a line; "" where there is none."""
        lines = self.text.splitlines()
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""

    def definition(self, kernel: str) -> int:
        """Return the line of a kernel, or of a macro with its name's last part; 0 if not found."""
        lines = self.text.splitlines()
        keyword = "__global__" if self.compiler else ".entry"
        named = [n for n, line in enumerate(lines, 1) if re.search(rf"\b{kernel}\s*\(", line)]
        with_keyword = [n for n in named if keyword in " ".join(lines[max(0, n - 3) : n])]
        last = kernel.rpartition("__")[2]
        macros = [n for n, line in enumerate(lines, 1) if re.search(rf"\({last}\W", line)]
        return next(iter([*with_keyword, *named, *macros]), 0)

    def line_of(self, source: Source | None, ptx_line: int) -> int:
        """Return the line of an instruction in the text: of the source, or of the PTX."""
        if not self.compiler:
            return ptx_line
        is_own = source is not None and Path(source.file).name == Path(self.name).name
        return source.line if source and is_own else 0


def kernel_source(given: str | os.PathLike[str], target: str = "compute_80") -> KernelSource:
    """Read a file, or take a text; CUDA source is compiled for `target`.

    Raises:
        KernelSourceError: it does not compile, or has no kernel; there is no compiler.
        UsageError: there is no such file.
    """
    name, text = _read(given)
    if re.search(r"^\s*\.version\s", text, re.MULTILINE):
        source = KernelSource(name, text, text, "")
    else:
        folder = _folder_of(given)
        compile_source = _compiled if folder else _compiled_once  # headers beside it may change
        source = compile_source(name, text, target, folder)
    if not source.kernels:
        raise KernelSourceError(
            f'{name} has no kernel: expected a function extern "C" __global__ void …'
        )
    return source


def _read(given: str | os.PathLike[str]) -> tuple[str, str]:
    if isinstance(given, str) and ("\n" in given or "__global__" in given):
        return CELL, given
    path = Path(given)
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"{path} cannot be read: {reason}; expected CUDA source, PTX, or a file of one"
        ) from None


def _folder_of(given: str | os.PathLike[str]) -> Path | None:
    """Return the folder that a file's headers are in."""
    is_text = isinstance(given, str) and ("\n" in given or "__global__" in given)
    return None if is_text else Path(given).resolve().parent


def _compiled(name: str, text: str, target: str, folder: Path | None) -> KernelSource:
    try:
        compiler = find_compiler(fetched_nvrtc())
        with TemporaryDirectory() as temporary:
            source = (folder or Path(temporary)) / name
            if folder is None:
                source.write_text(text, encoding="utf-8")
            ptx = compiler.compile(source, Path(target) / f"{Path(name).stem}.ptx").ptx
        return KernelSource(name, text, ptx, compiler.name)
    except NoCudaCompilerError:
        raise KernelSourceError(
            f"{name} cannot be compiled, as there is no CUDA compiler: "
            "pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12, or give PTX"
        ) from None
    except CompileError as error:
        raise _first_error(name, str(error)) from None


_compiled_once = lru_cache(maxsize=32)(_compiled)


def _first_error(name: str, log: str) -> KernelSourceError:
    """Return the compiler's first error, in its own words."""
    errors = [found for line in log.splitlines() if (found := _ERROR.match(line))]
    if not errors:
        return KernelSourceError(f"{name} does not compile: {' '.join(log.split())[:500]}")
    first, more = errors[0], len(errors) - 1
    place = "" if Path(first["file"]).name == name else f" in {Path(first['file']).name}"
    rest = f" (and {more} more errors)" if more > 1 else " (and 1 more error)" if more else ""
    line = 0 if place else int(first["line"])
    where = f"{name}:{first['line']}" if line else f"{name},{place}:{first['line']}"
    return KernelSourceError(f"{where} does not compile: {first['what']}{rest}", line)
