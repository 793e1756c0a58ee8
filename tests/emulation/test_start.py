"""`--backend emulated`: any Linux machine with g++ runs the CUDA backend, or says what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
from command_line import CommandLine, Ended

STORY = ("Once upon a time", "-n", "4", "-t", "0", "--dtype", "float32")

TWO_BACKENDS = """
import sys
from cullama import LLM, CullamaError
try:
    with LLM(sys.argv[1], backend="emulated", dtype="float32") as llm:
        print(llm.description)
    print(LLM(sys.argv[1], backend="auto").description)
    LLM(sys.argv[1], backend="cuda")
except CullamaError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def _emulation() -> None:
    gpu.require_emulated()


def story(command: CommandLine, model: Path, backend: str, **environment: str) -> Ended:
    arguments = ("story", "-m", model, *STORY, "--backend", backend)
    return command(*arguments, environment=environment)


def test_a_story_is_the_cpu_s_and_its_first_line_says_why_it_is_slow(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    emulated = story(cullama_command, tiny_model, "emulated")
    assert emulated.code == 0, emulated.err
    assert emulated.out == story(cullama_command, tiny_model, "cpu").out
    (line,) = emulated.err.splitlines()
    assert " · emulated · float32 · cuBLAS 13.0.0 · slow: the CPU executes" in line


def test_diff_finds_that_cpu_and_emulated_gpu_agree(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    arguments = ("Once upon", "-m", tiny_model, "--backends", "cpu,emulated", "--dtype", "float32")
    ended = cullama_command("diff", *arguments, "--json")
    assert ended.code == 0, ended.err
    second = json.loads(ended.out)["sides"][1]
    assert "emulated" in str(second)


def test_doctor_tests_every_operator_on_it(cullama_command: CommandLine) -> None:
    arguments = ("--backend", "emulated", "--dtype", "float32", "--quick", "--json")
    ended = cullama_command("doctor", *arguments)
    report = json.loads(ended.out)
    assert (ended.code, report["healthy"]) == (0, True)
    assert [test["backend"] for test in report["self_tests"]] == ["emulated"]


def test_no_other_gpu_is_used_in_its_process(tiny_model: Path, tmp_path: Path) -> None:
    environment = CommandLine(tmp_path).environment()
    done = subprocess.run(
        [sys.executable, "-c", TWO_BACKENDS, str(tiny_model)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    emulated, automatic, cuda = done.stdout.splitlines()
    assert " · emulated · float32" in emulated
    assert " · cpu · " in automatic
    assert cuda.startswith("the emulated GPU has taken the driver's place in this process; use")


def test_a_failing_kernel_is_told_by_the_driver_and_ends_the_story(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    fault = {"CULLAMA_EMULATION_FAULTS": "kernel:9:719"}
    ended = story(cullama_command, tiny_model, "emulated", **fault)
    assert ended.code == 1
    assert "libcuda emulation: kernel: injected error 719" in ended.err
    assert ended.err.splitlines()[-1].startswith("cullama: ")


def test_knobs_are_taken_from_the_environment(
    cullama_command: CommandLine, tiny_model: Path
) -> None:
    too_small = {"CULLAMA_EMULATION_MEMORY_BYTES": "4096"}
    ended = story(cullama_command, tiny_model, "emulated", **too_small)
    assert ended.code == 1
    assert "has no room for" in ended.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "lacks", "remedy"),
    [
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler was found", "apt install g++"),
        ({"CULLAMA_EMULATION_CACHE": "/proc/nowhere"}, "cannot be built", "can be written"),
        ({"CXX": "/bin/false"}, "cannot be built with /bin/false", "set CXX to g++"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    variables: dict[str, str],
    lacks: str,
    remedy: str,
    cullama_command: CommandLine,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    cache = {"CULLAMA_EMULATION_CACHE": str(tmp_path / "empty")}
    ended = story(cullama_command, tiny_model, "emulated", **{**cache, **variables})
    assert (ended.code, ended.out) == (1, "")
    progress = "compiling the emulated GPU, to be kept in "
    (line,) = [line for line in ended.err.splitlines() if not line.startswith(progress)]
    assert lacks in line
    assert remedy in line


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--backend", "emulated:1"], "'emulated:1', expected one of"),
        (["--backend", "emulated", "--threads", "2"], "leave it out with emulated"),
        (["--backend", "emulated", "--dtype", "q8_0"], "which is for the CPU"),
    ],
)
def test_impossible_options_are_usage_errors(
    options: list[str], complaint: str, cullama_command: CommandLine, tiny_model: Path
) -> None:
    ended = cullama_command("story", "Once", "-m", tiny_model, *options)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err
