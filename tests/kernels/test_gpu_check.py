"""gpu_check.sh, with fakes of Python, the driver and the sanitizer.

What the steps do on a real card is not tested here, nor can it be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_files import ROOT

STEPS = [
    *("machine", "ptx", "doctor", "story", "diff-float32", "diff-bfloat16"),
    *("bench-llama-3.2-1b", "bench-smollm2-135m", "bench-llama-3.1-8b", "batches", "predicted"),
    *("test-gpu", "peer-eager", "peer-compiled"),
    *("memcheck", "racecheck", "initcheck", "synccheck"),
]
PRETENDING = {
    "python": 'echo "python $*"; [ "$3" != "${FAILING:-none}" ] && [ "$1" != "${LACKING:-none}" ]',
    "nvidia-smi": "echo 580.01",
    "compute-sanitizer": 'while [ "${1#--}" != "$1" ]; do shift 2; done; "$@"',
    "make": 'echo "make $1"',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the script, and fake programs that always succeed."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "gpu_check.sh", tmp_path / "scripts")
    for name, body in PRETENDING.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    return tmp_path


def check(project: Path, *arguments: str, **variables: str) -> tuple[int, str, Path]:
    """Return exit code, summary and folder."""
    out = project / "out"
    programs = project / "bin"
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    done = subprocess.run(
        [str(project / "scripts" / "gpu_check.sh"), "--out", str(out), *arguments],
        env={**os.environ, "PATH": path, "PYTHON": str(programs / "python"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    summary = out / "summary.txt"
    assert done.stdout == (summary.read_text() if summary.exists() else ""), done.stderr
    return done.returncode, done.stdout, out


def results(summary: str) -> dict[str, str]:
    """Return pass or fail by step."""
    lines = [line.split() for line in summary.splitlines()[:-1]]
    return {words[2]: words[0] for words in lines}


def test_every_step_has_its_line_and_its_file(project: Path) -> None:
    code, summary, out = check(project)
    assert results(summary) == dict.fromkeys(STEPS, "pass")
    assert code == 0
    assert f"{len(STEPS)} of {len(STEPS)} steps passed, 0 skipped" in summary
    names = {f"{number:02d}-{name}.txt" for number, name in enumerate(STEPS, start=1)}
    assert {path.name for path in out.iterdir()} == names | {"summary.txt"}


def test_a_failed_step_is_noted_and_the_next_ones_run(project: Path) -> None:
    code, summary, _ = check(project, FAILING="story")
    assert code == 1
    assert results(summary) == dict.fromkeys(STEPS, "pass") | {"story": "fail"}
    assert "exit 1: 04-story.txt" in summary


def test_the_model_is_passed_to_every_step_that_takes_one(project: Path) -> None:
    _, _, out = check(project, "--model", "some/folder")
    commands = {path.stem[3:]: path.read_text().splitlines()[0] for path in out.glob("[0-9]*")}
    assert {name for name, command in commands.items() if "some/folder" in command} == {
        *("story", "diff-bfloat16", "diff-float32")
    }
    assert commands["story"].endswith("--model some/folder")
    assert commands["diff-float32"].endswith("--models some/folder")


def test_every_tool_of_the_sanitizer_runs_the_operator_tests(project: Path) -> None:
    _, _, out = check(project)
    for number, name in enumerate(STEPS, start=1):
        if name.endswith("check") or name == "test-gpu":
            assert "-m pytest" in (out / f"{number:02d}-{name}.txt").read_text()


@pytest.mark.skipif(bool(shutil.which("compute-sanitizer")), reason="a real one is on PATH")
def test_a_missing_sanitizer_says_what_to_install(project: Path) -> None:
    (project / "bin" / "compute-sanitizer").unlink()
    code, summary, out = check(project)
    assert code == 1
    assert results(summary)["memcheck"] == "fail"
    assert "nvidia-cuda-sanitizer-api" in (out / "15-memcheck.txt").read_text()


@pytest.mark.parametrize(("driver", "target"), [("580.01", "ptx"), ("535.2", "ptx-release")])
def test_an_older_driver_is_given_older_ptx(project: Path, driver: str, target: str) -> None:
    (project / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\necho {driver}\n")
    _, _, out = check(project)
    assert f"make {target}\n" in (out / "02-ptx.txt").read_text()


def test_a_machine_without_a_compiler_uses_the_kernels_that_are_there(project: Path) -> None:
    kernels = project / "src" / "cullama" / "cuda" / "ptx" / "compute_80"
    kernels.mkdir(parents=True)
    (kernels / "gather.ptx").touch()
    _, summary, out = check(project, LACKING="scripts/build_ptx.py")
    assert results(summary)["ptx"] == "pass"
    assert "compute_80/gather.ptx" in (out / "02-ptx.txt").read_text()


def test_what_needs_torch_is_skipped_without_it(project: Path) -> None:
    code, summary, out = check(project, LACKING="-c")
    assert code == 0
    assert f"{len(STEPS) - 2} of {len(STEPS)} steps passed, 2 skipped" in summary
    assert results(summary)["peer-eager"] == "skip"
    assert not list(out.glob("*peer*"))


def test_wheels_are_installed_first_without_a_network(project: Path, tmp_path: Path) -> None:
    _, summary, out = check(project, "--wheels", str(tmp_path / "wheels"))
    assert next(iter(results(summary))) == "wheels"
    assert "pip install --quiet --no-index" in (out / "01-wheels.txt").read_text()


def test_a_rehearsal_runs_what_needs_no_card(project: Path) -> None:
    code, summary, out = check(project, "--backend", "emulated", "--shapes", "tinystories-656k")
    assert code == 0
    done = results(summary)
    skipped = ("bench-tinystories-656k", "batches", "memcheck", "racecheck")
    assert {done[name] for name in skipped} == {"skip"}
    assert done["predicted"] == done["test-gpu"] == "pass"
    assert "--backend emulated" in (out / "04-story.txt").read_text()


def test_steps_after_the_time_limit_fail_and_say_so(project: Path) -> None:
    code, summary, _ = check(project, "--minutes", "0")
    assert code == 1
    assert summary.count("not started: the 0 minutes are over") == len(STEPS)
    code, summary, _ = check(project, "--minutes", "0.1")  # less than what is kept for the end
    assert code == 1


@pytest.mark.parametrize(
    "arguments", [("--what", "else"), ("--model",), ("--backend", "cpu"), ("--minutes", "ten")]
)
def test_misuse_shows_the_usage(project: Path, arguments: tuple[str, ...]) -> None:
    code, summary, _ = check(project, *arguments)
    assert (code, summary) == (2, "")
