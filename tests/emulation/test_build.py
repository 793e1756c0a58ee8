"""PTX is built once for each text, by several processes at once, with one-line errors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from cullama.emulation import build, device
from cullama.emulation.ahead import FILES, compile_ahead
from emulation.driver_calls import code, cu, ok
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


def test_a_kernel_is_compiled_once_for_all_targets_and_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = NOTHING.replace("nothing", "other").replace(HEADER, "")
    path = build.build_text(NOTHING + other, "nothing")
    changed = other.replace("ret;", "bar.sync 0; ret;")
    monkeypatch.setattr(subprocess, "run", None)
    older = (NOTHING + changed).replace("sm_90a", "sm_80")
    assert build.build_text(older, "nothing") == path
    assert ctypes.CDLL(str(path)).emulated_parameter_count(b"other") == -1


def test_kernels_are_compiled_ahead_for_one_storage_type_and_found_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cullama")
    new = f"p{uuid4().hex})"  # not in a cache of earlier runs
    names = [f"{file}_{suffix}" for file in FILES for suffix in ("f32", "bf16")]
    for file in FILES:
        kernels = [
            NOTHING.replace("nothing", name).replace(HEADER, "").replace("p)", new)
            for name in (*names, "gemm_f32")
            if name.startswith((file, "gemm"))
        ]
        (tmp_path / f"{file}.ptx").write_text(HEADER + "".join(kernels))
    compile_ahead(tmp_path, "bfloat16")
    assert f"compiling {len(FILES) + 1} kernels" in caplog.text  # sample has one for all types
    gpu = device.preload()
    with gpu.set_aside():
        ok(cu.cuInit(0))
        ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        monkeypatch.setenv("CULLAMA_EMULATION_PYTHON", "/bin/false")
        for name in ("gather_bf16", "silu_mul_bf16", "sample_f32", "gather_f32"):
            file = name.rpartition("_")[0]
            module = ok(cu.cuModuleLoadData((tmp_path / f"{file}.ptx").read_bytes() + b"\0"))
            found = code(cu.cuModuleGetFunction(module, name.encode()))
            assert found == (218 if name == "gather_f32" else 0)
    caplog.clear()
    compile_ahead(tmp_path, "bfloat16")
    assert not caplog.text
