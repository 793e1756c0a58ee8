"""`cullama doctor` as a process, on machines with and without GPUs, drivers and libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gpu
import pytest
from command_line import CommandLine, Ended

Doctor: TypeAlias = Callable[..., Ended]

QUICK = ("--quick", "--dtype", "float32")


@pytest.fixture
def doctor(cullama_command: CommandLine) -> Doctor:
    """On a machine with the emulated GPU, of which some is told by knobs."""

    def run(*arguments: str, **knobs: Any) -> Ended:
        if reason := gpu.missing():
            pytest.skip(reason)
        gpu.compile_kernels()
        from cullama.emulation import device

        visible = {"CUDA_VISIBLE_DEVICES": "0,1"}
        environment = {**device.environment(**knobs), **visible}
        return cullama_command("doctor", *QUICK, *arguments, environment=environment)

    return run


def report_of(ended: Ended) -> dict[str, Any]:
    assert ended.err == ""
    return json.loads(ended.out)


def problems_of(ended: Ended) -> dict[str, dict[str, str]]:
    assert ended.code == 1
    report = report_of(ended)
    assert report["healthy"] is False
    return {problem["what"]: problem for problem in report["problems"]}


def backends_in(report: dict[str, Any]) -> list[str]:
    return [test["backend"] for test in report["self_tests"]]


def test_a_machine_without_a_gpu_has_no_problem(cullama_command: CommandLine) -> None:
    hidden = {"LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": "-1"}
    ended = cullama_command("doctor", *QUICK, environment=hidden)
    assert ended.code == 0, ended.out
    assert ended.err == ""
    assert "\n  CUDA         not available: " in ended.out
    assert "\n               → " in ended.out
    assert "\n  auto         chooses cpu · " in ended.out
    assert ended.out.endswith("nothing is wrong\n")


def test_a_gpu_that_was_asked_for_and_is_not_there_is_a_problem(
    cullama_command: CommandLine,
) -> None:
    hidden = {"LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": "-1"}
    ended = cullama_command("doctor", *QUICK, "--backend", "cuda", environment=hidden)
    assert ended.code == 1
    assert "✗ CUDA         not available: " in ended.out
    assert ended.out.endswith("1 problem\n")


def test_the_cpu_alone_is_examined_without_a_word_about_gpus(
    cullama_command: CommandLine,
) -> None:
    ended = cullama_command("doctor", *QUICK, "--backend", "cpu", "--threads", "1", "--json")
    assert ended.code == 0, ended.err
    report = report_of(ended)
    stored = ("default", "converted")  # where other tests have kept any
    names = [fact["name"] for fact in report["facts"] if fact["name"] not in stored]
    assert names == [
        *("cullama", "Python", "numpy", "CPU", "CPU kernels", "memory", "model cache"),
        "environment",
    ]
    assert backends_in(report) == ["cpu"]
    assert report["self_tests"][0]["description"].startswith("cpu · float32 · 1 thread")


def test_a_named_model_is_described(cullama_command: CommandLine, tiny_model: Path) -> None:
    ended = cullama_command("doctor", *QUICK, "--backend", "cpu", "--model", tiny_model)
    assert ended.code == 0, ended.out
    assert f"  model        {tiny_model} · LlamaForCausalLM · 0.0 million parameters" in ended.out


def test_a_sound_gpu_is_described_and_tested(doctor: Doctor) -> None:
    ended = doctor("--json")
    assert ended.code == 0, ended.out
    report = report_of(ended)
    assert report["healthy"] is True
    assert report["problems"] == []
    assert backends_in(report) == ["cpu", "cuda:0"]
    facts = {fact["name"]: fact for fact in report["facts"]}
    assert facts["cuda:0"]["details"]["compute_capability"] == [9, 0]
    assert facts["cuda:0 PTX"]["found"].startswith("compute_90a · PTX ")
    assert facts["cuBLAS"]["details"]["version"].startswith("13.")
    assert facts["driver"]["details"]["cuda"] == "13.0"
    assert facts["auto"]["found"].startswith("chooses cuda:0 · ")


def test_two_gpus_are_both_tested_and_one_of_them_if_named(doctor: Doctor) -> None:
    knobs = {"devices": 2, "compute_capabilities": "80;90", "device_names": "A100;H100"}
    report = report_of(doctor("--backend", "cuda", "--json", **knobs))
    assert backends_in(report) == ["cuda:0", "cuda:1"]
    folders = [fact["found"] for fact in report["facts"] if fact["name"].endswith("PTX")]
    assert folders[0].startswith("compute_80 ")
    assert folders[1].startswith("compute_90a ")
    assert backends_in(report_of(doctor("--backend", "cuda:1", "--json", **knobs))) == ["cuda:1"]


def test_no_devices_are_no_problem(doctor: Doctor) -> None:
    ended = doctor(devices=0)
    assert ended.code == 0
    assert "not available: the NVIDIA driver sees no GPU" in ended.out
    assert "CUDA_VISIBLE_DEVICES" in ended.out


def test_a_driver_older_than_the_kernels_is_told_what_to_do(doctor: Doctor) -> None:
    problem = problems_of(doctor("--json", driver_version=11080))["cuda:0 PTX"]
    assert "this driver supports CUDA 11.8" in problem["found"]
    assert problem["expected"].startswith("PTX 7.")
    assert "install a driver from 5" in problem["remedy"]


def test_cublas_newer_than_the_driver_is_a_problem(doctor: Doctor) -> None:
    problem = problems_of(doctor("--json", driver_version=12000))["cuBLAS"]
    assert problem["remedy"] == "pip install nvidia-cublas-cu12"


def test_a_driver_from_before_cuda_12_is_a_problem(doctor: Doctor) -> None:
    problem = problems_of(doctor("--json", old_driver=True))["CUDA"]
    assert "cannot be used" in problem["found"]
    assert "525" in problem["remedy"]


def test_a_gpu_that_is_too_old_is_a_problem_and_the_cpu_is_tested(doctor: Doctor) -> None:
    ended = doctor("--json", compute_capabilities=75)
    problem = problems_of(ended)["cuda:0"]
    assert "compute capability 7.5" in problem["found"]
    assert problem["expected"] == "compute capability 8.0 or newer"
    assert backends_in(report_of(ended)) == ["cpu"]


def test_no_cublas_is_only_a_note(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = doctor("--backend", "cuda", cublas=None)
    assert ended.code == 0, ended.out
    if "cuBLAS       not found" not in ended.out:
        pytest.skip("cuBLAS is installed here")
    assert "→ pip install nvidia-cublas" in ended.out


def test_a_kernel_that_crashes_is_one_line_and_the_cpu_is_reported(doctor: Doctor) -> None:
    ended = doctor(faults="cuLaunchKernel:20:700")
    assert ended.code == 1
    assert ended.err == ""
    assert "✓   sample, drawn" in ended.out  # of the CPU
    (line,) = [line for line in ended.out.splitlines() if line.startswith("✗")]
    assert line.startswith("✗ self-test cuda:0 float32: Emulated GPU (cuda:0) failed: ")
    assert "→ run again with CUDA_LAUNCH_BLOCKING=1" in ended.out
    assert ended.out.endswith("1 problem\n")


def test_memory_that_is_used_up_is_said(doctor: Doctor) -> None:
    ended = doctor("--backend", "cuda", "--json", memory_bytes=40 << 20)
    (problem,) = problems_of(ended).values()
    assert "has no room for" in problem["found"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--backend", "gpu"], "'gpu'"),
        (["--backend", "cuda", "--threads", "1"], "for the CPU"),
        (["--threads", "9999"], "9999"),
        (["--dtype", "int4"], "'int4'"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], named: str, cullama_command: CommandLine) -> None:
    ended = cullama_command("doctor", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert named in ended.err
    assert ended.err.count("\n") == 1


def test_the_number_of_a_gpu_that_is_not_there_is_misuse(doctor: Doctor) -> None:
    ended = doctor("--backend", "cuda:1")
    assert ended.code == 2
    assert ended.out == ""
    assert "there is no GPU cuda:1" in ended.err
