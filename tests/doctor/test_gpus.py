"""Facts about CUDA where it is there, and where some part of it is not.

Other drivers and other GPUs are in `cli/test_doctor.py`: they take a process of their own.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import gpu
import pytest

from cullama.cuda import module
from cullama.cuda.module import PTX_FOLDER, ptx_folder
from cullama.doctor.findings import Fact
from cullama.doctor.gpus import SUPPORTED_BY, gpu_facts
from cullama.doctor.plan import DoctorPlan
from cullama.errors import DeviceError

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _a_gpu() -> None:
    gpu.require()


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the kernels' folder by a copy, and return the copy."""
    monkeypatch.setattr(module, "PTX_FOLDER", tmp_path)
    for folder in PTX_FOLDER.glob("compute_*"):
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


def examined(plan: DoctorPlan | None = None) -> tuple[dict[str, Fact], list[int]]:
    usable: list[int] = []
    facts = {fact.name: fact for fact in gpu_facts(plan or DoctorPlan(backend="cuda:0"), usable)}
    return facts, usable


def test_a_gpu_is_described_with_its_kernels_and_libraries() -> None:
    facts, usable = examined()
    assert usable == [0]
    assert not any(fact.problem for fact in facts.values())
    device, kernels = facts["cuda:0"].details, facts["cuda:0 PTX"].details
    assert 0 < device["free_bytes"] <= device["total_bytes"]
    assert device["multiprocessors"] > 0
    assert kernels["files"] == len(list(Path(kernels["folder"]).glob("*.ptx")))
    assert kernels["kernels"] > kernels["files"]
    assert kernels["load_seconds"] > 0
    assert {"driver", "cuda-python", "cuBLAS", "JIT cache"} <= facts.keys()


def test_kernels_that_were_not_built_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PTX_FOLDER", tmp_path)
    facts, usable = examined()
    problem = facts["cuda:0 PTX"].problem
    assert usable == []
    assert problem is not None
    assert "not built" in problem.found
    assert "make ptx" in problem.remedy


def test_a_damaged_kernel_file_is_named_in_its_problem(kernels: Path) -> None:
    for path in kernels.glob("*/silu_mul.ptx"):
        path.write_text(path.read_text().replace("ret;", "retreat;"))
    facts, usable = examined()
    problem = facts["cuda:0 PTX"].problem
    assert usable == []
    assert problem is not None
    assert "silu_mul.ptx" in problem.found
    assert "reinstall cullama" in problem.remedy


def test_without_cuda_python_there_is_no_problem_unless_a_gpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    fact = examined(DoctorPlan())[0]["CUDA"]
    assert fact.problem is None
    assert "cuda-python is not installed" in fact.found
    assert "cullama[cuda12]" in fact.remedy
    assert examined(DoctorPlan(backend="cuda"))[0]["CUDA"].problem is not None


def test_the_drivers_cache_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))
    (tmp_path / "index").write_bytes(bytes(2_000_000))
    assert examined()[0]["JIT cache"].found == f"{tmp_path} · 2.0 MB"
    monkeypatch.setenv("CUDA_CACHE_DISABLE", "1")
    disabled = examined()[0]["JIT cache"]
    assert disabled.details["is_disabled"]
    assert disabled.remedy == "unset CUDA_CACHE_DISABLE"


def test_newer_ptx_needs_newer_drivers() -> None:
    needs = [SUPPORTED_BY[version] for version in sorted(SUPPORTED_BY)]
    assert needs == sorted(needs)


@pytest.mark.parametrize("rest", ["", "\0\0\0", "// no more\n"])
def test_a_truncated_kernel_file_is_a_problem(kernels: Path, rest: str) -> None:
    for path in kernels.glob("*/silu_mul.ptx"):
        path.write_text(rest)
    problem = examined()[0]["cuda:0 PTX"].problem
    assert problem is not None
    assert "silu_mul.ptx holds no kernels" in problem.found
    assert "make ptx" in problem.remedy


def test_hopper_takes_the_kernels_of_ampere_where_its_own_were_not_built(kernels: Path) -> None:
    assert ptx_folder((9, 0)).name == "compute_90a"
    shutil.rmtree(kernels / "compute_90a")
    assert ptx_folder((9, 0)).name == "compute_80"


def test_a_broken_cublas_is_a_problem_and_the_rest_is_examined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise DeviceError("cuBLAS cannot be loaded: file too short; reinstall it")

    monkeypatch.setattr("cullama.doctor.gpus.find_cublas", broken)
    facts, usable = examined()
    problem = facts["cuBLAS"].problem
    assert problem is not None
    assert "file too short" in problem.found
    assert "pip install nvidia-cublas" in problem.remedy
    assert usable == [0]
    assert "JIT cache" in facts


def test_another_library_in_the_place_of_cublas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ctypes.CDLL("libm.so.6"), "/somewhere/libcublas.so.13"
    monkeypatch.setattr("cullama.doctor.gpus.find_cublas", lambda: found)
    problem = examined()[0]["cuBLAS"].problem
    assert problem is not None
    assert problem.found == "/somewhere/libcublas.so.13 is another library"
