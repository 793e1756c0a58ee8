"""`make ptx` compiles only what changed, and reports what it cannot do.

Every test has a small project of its own: see small_project.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from kernel_files import NVRTC, ROOT, make, version
from small_project import PTX, Project, folder_of_tools, write_project

FOLDERS = ("compute_80", "compute_90a")


def both(*names: str) -> set[str]:
    return {f"{folder}/{name}" for folder in FOLDERS for name in names}


@pytest.fixture(scope="module", params=["nvcc", "NVRTC"])
def first_build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project built once by each compiler, to be copied."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "nvcc":
        if not (shutil.which("nvcc") and shutil.which("gcc")):
            pytest.skip("no nvcc, or no gcc, on this machine")
        project = Project(folder / "project", os.environ["PATH"])
    else:
        if not NVRTC.is_dir():
            pytest.skip("no NVRTC in .venv: `make test` fetches it")
        project = Project(folder / "project", folder_of_tools(folder / "bin"), f"NVRTC={NVRTC}")
    write_project(project.folder)
    assert project.rebuilt() == both("add", "gather", "scale")
    return project


@pytest.fixture
def project(first_build: Project, tmp_path: Path) -> Project:
    """A copy with the same file times, so that nothing in it is out of date."""
    copied = Path(shutil.copytree(first_build.folder, tmp_path / "project"))
    return Project(copied, first_build.path, *first_build.variables[1:])


@pytest.fixture
def without_compiler(tmp_path: Path) -> Project:
    folder = write_project(tmp_path / "project")
    return Project(folder, folder_of_tools(tmp_path / "bin"), f"NVRTC={tmp_path / 'none'}")


# --------------------------------------------------------------------------------- what is rebuilt


def test_every_kernel_is_built_for_both_targets_with_a_dependency_file(
    project: Project,
) -> None:
    names = both("add", "gather", "scale")
    assert project.files() == {f"{name}.{kind}" for name in names for kind in ("ptx", "d")}


def test_without_changes_nothing_is_rebuilt(project: Project) -> None:
    assert project.make("--question", "ptx") == (0, "")
    assert project.rebuilt() == set()


def test_a_changed_kernel_rebuilds_its_two_files(project: Project) -> None:
    project.edit("add.cu")
    assert project.rebuilt() == both("add")


def test_a_changed_header_rebuilds_only_what_includes_it(project: Project) -> None:
    project.edit("scale.cuh")
    assert project.rebuilt() == both("scale")


def test_a_header_included_by_a_header_is_a_dependency(project: Project) -> None:
    project.edit("common.cuh")
    assert project.rebuilt() == both("gather", "scale")


def test_a_header_may_be_renamed(project: Project) -> None:
    (project.folder / "kernels" / "scale.cuh").rename(project.folder / "kernels" / "other.cuh")
    text = (project.folder / "kernels" / "scale.cu").read_text()
    project.edit("scale.cu", text.replace("scale.cuh", "other.cuh"))
    assert project.rebuilt() == both("scale")


@pytest.mark.parametrize("file", ["scripts/build_ptx.py", "src/cullama/cuda/compiler.py"])
def test_a_changed_build_script_rebuilds_everything(project: Project, file: str) -> None:
    (project.folder / file).touch()
    assert project.rebuilt() == both("add", "gather", "scale")


def test_ptx_of_a_deleted_kernel_is_deleted(project: Project) -> None:
    (project.folder / "kernels" / "add.cu").unlink()
    assert project.rebuilt() == set()
    assert {name for name in project.files() if "add" in name} == set()


def test_clean_leaves_no_ptx(project: Project) -> None:
    (project.folder / "tests").mkdir()
    find = os.pathsep.join([project.path, os.environ["PATH"]])
    assert make(project.folder, "clean", path=find).returncode == 0
    assert project.files() == set()


# ------------------------------------------------------------------------------- what goes wrong


def test_a_compile_error_is_shown_and_leaves_no_file(project: Project) -> None:
    project.edit("gather.cu", "this is no C++;\n")
    shutil.rmtree(project.folder / PTX)
    code, said = project.make("--keep-going", "ptx")
    assert code == 2
    assert "kernels/gather.cu(1): error" in said
    assert "Traceback" not in said
    names = both("add", "scale")
    assert project.files() == {f"{name}.{kind}" for name in names for kind in ("ptx", "d")}


def test_after_a_compile_error_the_old_ptx_is_complete_and_out_of_date(project: Project) -> None:
    built = project.folder / PTX / "compute_80" / "gather.ptx"
    before = built.read_bytes()
    project.edit("gather.cu", "this is no C++;\n")
    assert project.make("ptx")[0] == 2
    assert built.read_bytes() == before
    assert project.make("--question", "ptx")[0] == 1


def test_a_missing_header_is_a_compile_error(project: Project) -> None:
    (project.folder / "kernels" / "common.cuh").unlink()
    code, said = project.make("ptx")
    assert code == 2
    assert "common.cuh" in said
    assert "error" in said
    assert "No rule to make" not in said


def test_without_any_compiler_one_line_says_what_to_do(without_compiler: Project) -> None:
    code, said = without_compiler.make("ptx")
    assert code == 2
    explained = [line for line in said.splitlines() if not line.startswith("make: ***")]
    assert len(explained) == 1
    assert explained[0].startswith("no CUDA compiler found")
    assert "`make ptx-release`" in explained[0]
    assert without_compiler.files() == set()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc on this machine")
@pytest.mark.skipif(not NVRTC.is_dir(), reason="no NVRTC in .venv: `make test` fetches it")
def test_nvcc_without_gcc_is_not_used(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    path = folder_of_tools(tmp_path / "bin", "nvcc")
    code, said = Project(folder, path, f"NVRTC={NVRTC}").make("ptx")
    assert code == 0, said
    assert said.count("by NVRTC 12.0") == 6


# ---------------------------------------------------------------------------------------- releases


@pytest.mark.skipif(not NVRTC.is_dir(), reason="no NVRTC in .venv: `make test` fetches it")
def test_a_release_replaces_earlier_ptx(project: Project) -> None:
    code, said = project.make("ptx-release", f"VENV={NVRTC.parent}")
    assert code == 0, said
    assert said.count("by NVRTC 12.0") == 6
    built = list((project.folder / PTX).glob("*/*.ptx"))
    assert {version(path.read_text()) for path in built} == {(8, 0)}


def build_script() -> ModuleType:
    found = importlib.util.spec_from_file_location("build_ptx", ROOT / "scripts" / "build_ptx.py")
    assert found
    assert found.loader
    module = sys.modules["build_ptx"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_a_release_refuses_ptx_that_older_drivers_do_not_load(tmp_path: Path) -> None:
    script = build_script()

    class TooNew:
        name = "NVRTC 13.0"

        def compile(self, source: Path, ptx: Path) -> object:
            return script.cuda.CompiledSource(
                ".version 9.0\n.target sm_80\n", f"{ptx} : {source}\n"
            )

    source, ptx = tmp_path / "add.cu", tmp_path / "compute_80" / "add.ptx"
    script.build(source, ptx, TooNew(), release=False)
    assert ptx.is_file()
    with pytest.raises(
        script.cuda.CompileError, match=r"NVRTC 13\.0 writes PTX 9\.0; a release needs 8"
    ):
        script.build(source, ptx, TooNew(), release=True)


def test_a_release_is_built_by_its_own_compiler_only(without_compiler: Project) -> None:
    code, said = without_compiler.make("ptx", "RELEASE=--release")
    assert code == 2
    assert "`make ptx-release` fetches" in said
