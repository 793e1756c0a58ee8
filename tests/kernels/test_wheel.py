"""Wheels contain kernels that are or can be built; others are for the CPU only, and say so.

hatchling builds for real, from a copy of the source with kernels of one line each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from kernel_files import ROOT
from small_project import PTX, folder_of_tools, write_project

needs_nvcc = pytest.mark.skipif(
    not (shutil.which("nvcc") and shutil.which("gcc")), reason="no nvcc, or no gcc, on this machine"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_project(tmp_path / "source")
    for name in (
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "scripts/hatch_build.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    package = folder / "src" / "cullama"
    (package / "__init__.py").write_text("")
    (package / "version.py").write_text('__version__ = "0.0"\n')
    return folder


@pytest.fixture
def no_compiler(tmp_path: Path) -> str:
    """A PATH without a compiler; skips the test if pip has installed one."""
    path = folder_of_tools(tmp_path / "bin")
    asked = [sys.executable, str(ROOT / "scripts" / "build_ptx.py"), "--which"]
    found = subprocess.run(asked, env={"PATH": path}, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        pytest.skip(f"this Python has a CUDA compiler: {found.stdout.strip()}")
    return path


def write_ptx(source: Path) -> None:
    """PTX newer than its source, which is therefore not rebuilt."""
    for name in ("add", "gather", "scale"):
        for target in ("compute_80", "compute_90a"):
            file = source / PTX / target / f"{name}.ptx"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"// {name} for {target}\n")
            file.with_suffix(".d").write_text("")


def build(source: Path, path: str, kind: str = "wheel") -> tuple[int, str, list[Path]]:
    out = source.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)],
        cwd=source,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, sorted(out.glob("*"))


def ptx_in(wheel: Path) -> dict[str, str]:
    """Return the wheel's files under cullama/cuda/ptx."""
    with ZipFile(wheel) as archive:
        return {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name.startswith("cullama/cuda/ptx/")
        }


def shipped() -> dict[str, str]:
    return {
        f"cullama/cuda/ptx/{target}/{name}.ptx": f"// {name} for {target}\n"
        for target in ("compute_80", "compute_90a")
        for name in ("add", "gather", "scale")
    }


def test_a_wheel_contains_the_ptx_and_no_dependency_files(source: Path, no_compiler: str) -> None:
    write_ptx(source)
    code, said, [wheel] = build(source, no_compiler)
    assert (code, "this build is" in said) == (0, False)
    assert ptx_in(wheel) == shipped()


def test_a_source_archive_contains_its_ptx(source: Path, no_compiler: str) -> None:
    write_ptx(source)
    _, _, [archive] = build(source, no_compiler, "sdist")
    unpacked = source.parent / "unpacked"
    with tarfile.open(archive) as files:
        files.extraction_filter = tarfile.fully_trusted_filter  # Python 3.12 wants it set
        files.extractall(unpacked)
    [folder] = unpacked.iterdir()
    for kernel in (folder / "kernels").iterdir():
        kernel.touch()  # unpacked in whatever order
    code, said, [wheel] = build(folder, no_compiler)
    assert (code, "this build is" in said) == (0, False)
    assert ptx_in(wheel) == shipped()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_emulated_gpu_is_shipped_with_its_cpp(
    source: Path, no_compiler: str, kind: str
) -> None:
    emulation = ROOT / "src" / "cullama" / "emulation"
    shutil.copytree(emulation, source / "src" / "cullama" / "emulation")
    _, _, [built] = build(source, no_compiler, kind)
    if kind == "wheel":
        names = ZipFile(built).namelist()
    else:
        with tarfile.open(built) as files:
            names = files.getnames()
    needed = [path.relative_to(emulation) for path in emulation.rglob("*.[hcp]*")]
    needed = [path for path in needed if path.suffix in (".h", ".cpp", ".py")]
    assert Path("libcuda/launch.cpp") in needed
    missing = {p for p in needed if not any(n.endswith(f"emulation/{p}") for n in names)}
    assert missing == set()


def test_without_a_compiler_the_wheel_is_for_the_cpu_and_says_what_is_missing(
    source: Path, no_compiler: str
) -> None:
    code, said, [wheel] = build(source, no_compiler)
    assert code == 0
    assert "this build is for the CPU only: no CUDA compiler found" in said
    assert "`make ptx-release`" in said
    assert ptx_in(wheel) == {}


def test_without_make_the_build_says_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said, [wheel] = build(source, str(tmp_path / "empty"))
    assert code == 0
    assert "for the CPU only: no `make`" in said
    assert ptx_in(wheel) == {}


@needs_nvcc
def test_with_a_compiler_the_kernels_are_built_with_the_wheel(source: Path) -> None:
    code, said, [wheel] = build(source, os.environ["PATH"])
    assert code == 0, said
    built = ptx_in(wheel)
    assert built.keys() == shipped().keys()
    assert all(".visible .entry" in text for text in built.values())


@needs_nvcc
def test_a_kernel_that_does_not_compile_makes_no_wheel(source: Path) -> None:
    (source / "kernels" / "add.cu").write_text("this is no C++;\n")
    code, said, wheels = build(source, os.environ["PATH"])
    assert code != 0
    assert "kernels/add.cu(1): error" in said
    assert wheels == []
