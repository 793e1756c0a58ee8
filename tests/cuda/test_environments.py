"""Machines whose GPU cannot be used get one line with the remedy; `auto` then uses the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gpu
import pytest

from cullama import LLM, SamplingParams
from cullama.errors import CullamaError, DeviceError, DeviceUnavailableError, UsageError

# Warnings are errors, except for Python 3.12's about forks of processes with threads.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
STORY = ("--max-tokens", "4", "--temperature", "0", "--seed", "1")

# Uses the GPU, and then, in the same process, the best backend that works.
TWICE = """
import sys
{before}
from cullama.cli import run
for backend in ("cuda", "auto"):
    code = run(["story", "--backend", backend, *sys.argv[1:]])
    print(code)
    print("---", flush=True)
    print("---", file=sys.stderr, flush=True)
"""
WITHOUT_BINDINGS = "sys.modules['cuda.bindings'] = None"
# Replaces the search for cuBLAS by `{}`; the bindings find libcuda by the same function.
CUBLAS_SEARCH = """
import ctypes, cuda.pathfinder as finder
search = finder.load_nvidia_dynamic_lib
def not_found():
    raise finder.DynamicLibNotFoundError("there is none")
finder.load_nvidia_dynamic_lib = lambda name: search(name) if name != "cublas" else {}
"""
KERNELS_ELSEWHERE = "import pathlib, cullama.cuda.module as m; m.PTX_FOLDER = pathlib.Path({!r})"
FORKED = """
import os
from cullama.cuda.driver import Device
open_in_parent = Device()
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


class Environment(NamedTuple):
    """A machine whose GPU cannot be used, and what the error must say."""

    found: str
    remedy: str
    knobs: dict[str, Any] = {}  # noqa: RUF012 - never changed
    before: str = ""  # Python code to run first


UNUSABLE = {
    "no libcuda": Environment("no NVIDIA driver was found", "install one", {"driver": "none"}),
    "a driver from before CUDA 12": Environment(
        "the NVIDIA driver cannot be used", "from 525 on", {"old_driver": True}
    ),
    "a driver older than the PTX": Environment(
        "gather.ptx cannot be loaded: .*The driver supports CUDA 11.4, the file is PTX",
        "install a newer driver",
        {"driver_version": 11040},
    ),
    "a driver that does not start": Environment(
        "does not start: .*SYSTEM_DRIVER_MISMATCH", "nvidia-smi", {"faults": "cuInit:1+:803"}
    ),
    "no GPU": Environment("sees no GPU", "CUDA_VISIBLE_DEVICES", {"devices": 0}),
    "a GPU from before Ampere": Environment(
        "Emulated GPU has compute capability 7.5, expected at least 8.0",
        "Ampere generation or newer",
        {"compute_capabilities": 75},
    ),
    "a GPU in exclusive use by another process": Environment(
        "DEVICE_UNAVAILABLE", "nvidia-smi", {"faults": "cuDevicePrimaryCtxRetain:1+:46"}
    ),
    "a GPU without memory for a context": Environment(
        r"Emulated GPU \(cuda:0\) cannot be used: out of memory",
        "nvidia-smi",
        {"faults": "cuDevicePrimaryCtxRetain:1+:2"},
    ),
    "a GPU that is full": Environment(
        "no room for .* MB: 1 MB of 1 MB are free", "--backend cpu", {"memory_bytes": 1_000_000}
    ),
    "no cuda-python": Environment(
        "the package cuda-python is not installed", "pip install", before=WITHOUT_BINDINGS
    ),
    "kernels that were not built": Environment(
        "the CUDA kernels are not built", "make ptx", before=KERNELS_ELSEWHERE.format("/nowhere")
    ),
    "a process forked after CUDA was started": Environment(
        "was forked after CUDA was started", "spawn", before=FORKED
    ),
}


def machine(folder: Path, knobs: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of a process on such a machine."""
    from cullama.emulation import device

    if knobs.get("driver") == "none":
        (folder / "libcuda.so.1").touch()  # found before a real one, but not a library
        return {"LD_LIBRARY_PATH": str(folder)}
    return device.environment(**knobs)


def start(
    cullama_command: Any,
    script: str,
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process, with warnings as errors."""
    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", script, *map(str, arguments)],
        env=cullama_command.environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def no_gpu_is_needed() -> None:
    if gpu.IS_REAL:
        pytest.skip("the GPU of this machine is not the one to be tested")
    if reason := gpu.missing():
        pytest.skip(reason)


@pytest.mark.usefixtures("no_gpu_is_needed")
@pytest.mark.parametrize("name", UNUSABLE)
def test_the_error_has_one_line_with_a_remedy_and_auto_uses_the_cpu(
    name: str, cullama_command: Any, tiny_model: Path, tmp_path: Path
) -> None:
    environment = UNUSABLE[name]
    script = TWICE.format(before=environment.before)
    ended = start(
        cullama_command,
        script,
        *("--model", tiny_model, *STORY),
        environment=machine(tmp_path, environment.knobs),
    )
    assert ended.returncode == 0, ended.stderr
    refused, told, _ = (text.strip() for text in ended.stdout.split("---"))
    complaint, description, _ = (text.strip() for text in ended.stderr.split("---"))
    assert refused == "1"
    assert told.startswith("Once upon a time")
    assert told.endswith("\n0")
    for line in (complaint, description):
        assert line.count("\n") == 0
        assert "Traceback" not in line
    matches(complaint, environment.found)
    matches(complaint, rf"^cullama: .*{environment.remedy}")
    if name == "no libcuda":  # no one has asked for a GPU, and there seems to be none
        assert "auto" not in description
    else:
        matches(description, rf"cpu.* · auto: .*{environment.found}")


def matches(line: str, pattern: str) -> None:
    assert re.search(pattern, line), f"{pattern!r} is not in {line!r}"


@pytest.mark.usefixtures("no_gpu_is_needed")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--backend", "cuda:7"], "there is no GPU cuda:7, expected cuda:0"),
        (["--backend", "cuda:x"], "'cuda:x', expected"),
        (["--backend", "cuda:"], "'cuda:', expected"),
        (["--backend", "cuda:-1"], "'cuda:-1', expected"),
        (["--backend", "cpu:0"], "'cpu:0'"),
        (["--backend", "cuda", "--threads", "2"], "threads is 2, which is for the CPU"),
    ],
)
def test_impossible_backends_are_usage_errors(
    options: list[str], complaint: str, cullama_command: Any, tiny_model: Path
) -> None:
    from cullama.emulation import device

    ended = cullama_command(
        *("story", "--model", tiny_model, *STORY, *options), environment=device.environment()
    )
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("cullama: ")
    assert complaint in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("backend", ["cuda:x", "cuda:", "cuda:-1", "cuda:1.5", "cuda:²"])
def test_an_invalid_device_number_is_named(backend: str, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=f"backend is '{backend}'.*cuda:1"):
        LLM(tiny_model, backend=backend)


def stories(cullama_command: Any, model: Path, environment: dict[str, str]) -> list[Any]:
    return [
        cullama_command(
            *("story", "--model", model, *STORY, "--dtype", "float32", "--backend", backend),
            environment=environment,
        )
        for backend in ("cuda", "cpu")
    ]


@pytest.mark.usefixtures("no_gpu_is_needed")
def test_two_installed_versions_of_cublas_do_no_harm(
    cullama_command: Any, tiny_model: Path
) -> None:
    from cullama.emulation import device

    environment = device.environment(cublas=13)
    older = [str(device.built(each)) for each in device.cublas_libraries(12)]
    environment["LD_PRELOAD"] = ":".join([environment["LD_PRELOAD"], *older])
    on_gpu, on_cpu = stories(cullama_command, tiny_model, environment)
    assert on_gpu.code == 0
    assert on_gpu.out == on_cpu.out
    matches(on_gpu.err, r"^tiny · .* · cuda:0 · Emulated GPU · float32 · cuBLAS 1[23]\.0\.0\n$")


@pytest.mark.usefixtures("no_gpu_is_needed")
def test_without_cublas_the_output_is_the_same_and_the_description_says_so(
    cullama_command: Any, tiny_model: Path, tmp_path: Path
) -> None:
    ended = start(
        cullama_command,
        TWICE.format(before=CUBLAS_SEARCH.format("not_found()")),
        *("--model", tiny_model, *STORY),
        environment=machine(tmp_path, {"cublas": None}),
    )
    first, second, _ = (text.strip() for text in ended.stdout.split("---"))
    assert first == second
    assert first.endswith("\n0")
    assert ended.stderr.count("no cuBLAS: large prompts are slow") == 2


@pytest.mark.usefixtures("no_gpu_is_needed")
def test_a_cublas_that_does_not_start_leaves_cullamas_own_kernels(
    cullama_command: Any, tiny_model: Path, tmp_path: Path
) -> None:
    environment = machine(tmp_path, {"faults": "cublasCreate:1+:1"})
    on_gpu, on_cpu = stories(cullama_command, tiny_model, environment)
    assert on_gpu.code == 0
    assert on_gpu.out == on_cpu.out
    warning, description = on_gpu.err.splitlines()
    matches(warning, r"cublasCreate_v2 of .*libcublas.so.13 failed with status 1\. .*Own kernels")
    matches(description, "no cuBLAS: large prompts are slow")


@pytest.mark.usefixtures("no_gpu_is_needed")
def test_a_cublas_file_that_is_no_library_is_named_and_left_out(
    cullama_command: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """As after an incomplete download, or of another architecture."""
    broken = tmp_path / "libcublas.so.13"
    broken.write_text("not a library")
    before = CUBLAS_SEARCH.format(f"ctypes.CDLL({str(broken)!r})")
    ended = start(
        cullama_command,
        TWICE.format(before=before),
        *("--model", tiny_model, *STORY),
        environment=machine(tmp_path / "none", {"cublas": None}),
    )
    matches(ended.stderr, "cuBLAS cannot be loaded: .*libcublas.so.13.*reinstall it.*Own kernels")
    assert ended.stderr.count("Own kernels") == 1  # a warning is printed once
    for said in ended.stderr.split("---")[:2]:
        matches(said, "cuda:0 .* no cuBLAS: large prompts are slow")
    assert "Traceback" not in ended.stderr


# --- the same through the library -----------------------------------------------------------------


def open_on(backend: str, model: Path) -> LLM:
    return LLM(model, backend=backend, dtype="float32", cache_tokens=512)


@pytest.mark.parametrize(
    ("knob", "value", "error"),
    [
        ("devices", 0, DeviceUnavailableError),
        ("compute_capabilities", 75, DeviceUnavailableError),
        ("driver_version", 11040, DeviceUnavailableError),
        ("memory_bytes", 1_000_000, DeviceError),
        ("faults", "cuDevicePrimaryCtxRetain:1+:46", DeviceUnavailableError),
        ("faults", "cuStreamCreate:1+:999", DeviceError),
        ("faults", "cuCtxSetCurrent:1+:2", DeviceError),
        ("faults", "cuStreamCreate:1+:2,cuMemGetInfo:1+:2", DeviceError),
    ],
)
def test_the_process_survives_and_can_use_the_gpu_later(
    knob: str,
    value: Any,
    error: type[CullamaError],
    emulated: Any,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cullama import backends

    monkeypatch.setattr(
        "cullama.backends._first_gpu",
        lambda dtype, deterministic: backends._cuda(dtype, 0, deterministic),
    )
    emulated.set(knob, value)
    with pytest.raises(error) as caught:
        open_on("cuda", tiny_model)
    assert str(caught.value).count("\n") == 0
    assert (emulated.live_bytes(), emulated.pinned_allocations()) == (0, 0)
    with open_on("auto", tiny_model) as llm:
        assert "cpu" in llm.description
        assert " · auto: " in llm.description
        assert llm.generate("Once", SamplingParams(max_tokens=2, ignore_eos=True)).token_ids
    emulated.reset()
    with open_on("cuda", tiny_model) as llm:
        assert "Emulated GPU" in llm.description


def test_a_second_gpu_is_chosen_by_its_number(emulated: Any, tiny_model: Path) -> None:
    emulated.set("devices", 2)
    emulated.set("device_names", "First;Second")
    with open_on("cuda:1", tiny_model) as llm:
        assert "cuda:1 · Second" in llm.description
        assert llm.generate("Once", SamplingParams(max_tokens=2, ignore_eos=True)).token_ids
    with pytest.raises(UsageError, match="no GPU cuda:2, expected cuda:0 to cuda:1"):
        open_on("cuda:2", tiny_model)


def test_a_damaged_kernel_file_is_named(
    emulated: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("compute_80", "compute_90a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gather.ptx").write_text(".version 8.0\nwhat is this?\n\nend\n")
    monkeypatch.setattr("cullama.cuda.module.PTX_FOLDER", tmp_path)
    with pytest.raises(DeviceUnavailableError, match=r"^gather\.ptx cannot be loaded: ") as caught:
        open_on("cuda", tiny_model)
    assert str(caught.value).count("\n") == 0
