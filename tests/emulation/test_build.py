"""PTX is built once for each text, by several processes at once, with one-line errors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cullama.emulation import build
from emulation.probe import HEADER

NOTHING = HEADER + ".visible .entry nothing(.param .u64 p) { ret; }\n"


@pytest.fixture
def ptx(tmp_path: Path) -> Path:
    path = tmp_path / "nothing.ptx"
    path.write_text(NOTHING)
    return path


def environment(cache: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, "CULLAMA_EMULATION_CACHE": str(cache), **changes}


def start(ptx: Path, cache: Path, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, build.__file__, str(ptx)],
        env=environment(cache, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_build_at_once_share_one_object(ptx: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    processes = [start(ptx, cache) for _ in range(3)]
    paths = set()
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
        paths.add(out.strip())
    (path,) = paths
    assert ctypes.CDLL(path).emulated_parameter_count(b"nothing") == 1
    left = sorted(file.name for file in Path(path).parent.iterdir())
    assert len(left) == 2  # the module and the scheduler, no partial file


def test_a_second_build_compiles_nothing(ptx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.build_file(ptx)
    monkeypatch.setattr(subprocess, "run", None)
    assert build.build_file(ptx) == first


def test_errors_are_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.ptx"
    bad.write_text(NOTHING.replace("ret;", "\nfrobnicate.b32 1;"))
    process = start(bad, tmp_path)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert error == "bad.ptx: line 5: `frobnicate.b32 1`: unknown instruction\n"


def test_a_missing_compiler_is_named(ptx: Path, tmp_path: Path) -> None:
    process = start(ptx, tmp_path, PATH=str(tmp_path), CXX="")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error == "nothing.ptx: no C++ compiler found: install g++, or set CXX\n"
