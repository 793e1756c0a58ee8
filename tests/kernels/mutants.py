"""Compiles our kernels with planted bugs, to test whether the tests find them.

A mutant is a kernel file with one line replaced. It is compiled for float32 only and run on the
emulated GPU, with every array in its own allocation.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gpu
import pytest
from kernel_files import NVRTC, ROOT

from cullama.cuda.module import FIRST_LOADED
from cullama.emulation.build import cache_folder

TARGET = "compute_90a"  # of the emulated GPU

# Kernels whose checks also run other kernels.
NEEDED = {"rope_and_store": ["attention.cu"], "attention": ["rope_and_store.cu"]}


class Mutant(NamedTuple):
    """`kernel` names the file, and the check that must find the bug."""

    what: str
    kernel: str
    line: str
    instead: str
    header: str = ""  # where the line is, if it is not in the kernel's own file


@contextmanager
def operators_with(mutant: Mutant) -> Iterator[Any]:
    """The CUDA backend with one changed kernel, on an emulated GPU of its own."""
    with (
        gpu.emulated().set_aside(),
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, ptx in _compiled(mutant).items():
            place = Path(folder) / TARGET / f"{name}.ptx"
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(ptx)
        patch.setattr("cullama.cuda.module.PTX_FOLDER", Path(folder))
        ops = gpu.operators("float32", has_cublas=False)
        try:
            yield ops
        finally:
            ops.close()


def _compiled(mutant: Mutant) -> dict[str, Path]:
    """Return the PTX of each kernel file that is needed, cached by its source and headers."""
    sources = {path.name: path.read_text() for path in (ROOT / "kernels").glob("*.cuh")}
    kernel = f"{mutant.kernel}.cu"
    needed = {kernel, f"{FIRST_LOADED}.cu", *NEEDED.get(mutant.kernel, ())}
    for name in needed:
        sources[name] = (ROOT / "kernels" / name).read_text()
    every, one = r"#define FOR_EACH_DTYPE(.*\\\n)*.*", "#define FOR_EACH_DTYPE(E) E(f32, float)"
    sources["common.cuh"] = re.sub(every, one, sources["common.cuh"])
    for name, text in sources.items():  # not needed for float32 and narrow heads
        text = re.sub(r" +EXPORT_WIDTH\((128|256), .*\n", "", text)
        sources[name] = re.sub(r"EXPORT_TO\(b?f16_to_f32.*\n", "", text)
    changed = mutant.header or kernel
    assert sources[changed].count(mutant.line) == 1, f"{mutant.what}: the line is not there, once"
    sources[changed] = sources[changed].replace(mutant.line, mutant.instead)
    return {name[:-3]: _ptx_of(name, sources) for name in sorted(needed)}


def _ptx_of(name: str, sources: dict[str, str]) -> Path:
    """Compile one file, unless that was done before with the same headers."""
    headers = [h for h in sources if h == "common.cuh" or f'"{h}"' in sources[name]]
    read = {each: sources[each] for each in sorted({name, *headers})}
    key = hashlib.sha256(repr(read).encode()).hexdigest()[:32]
    ptx = cache_folder() / "mutants" / f"{key}.ptx"
    if not ptx.is_file():
        ptx.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ptx.parent) as place:
            for each, text in read.items():
                (Path(place) / each).write_text(text)
            written = Path(place) / TARGET / "written.ptx"
            _compile(Path(place) / name, written)
            written.replace(ptx)
    return ptx


def _compile(source: Path, ptx: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "build_ptx.py"), "--nvrtc", str(NVRTC)]
    done = subprocess.run(
        [*script, str(source), str(ptx)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
