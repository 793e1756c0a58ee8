"""The knobs of the emulated GPU, and how programs and processes find its libraries.

What needs a process of its own (environments, forks, crashes) gets one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cullama.emulation import device
from cullama.emulation.build import BuildError
from emulation.driver_calls import PYTHONPATH, allocated, code, contents, cu, in_process, ok


def test_only_known_knobs_are_accepted(gpu: device.EmulatedGpu) -> None:
    for name in device.KNOBS:
        gpu.set(name, gpu.get(name))
    with pytest.raises(ValueError, match="no such knob: memory"):
        gpu.set("memory", 1)
    with pytest.raises(ValueError, match="no such knobs: memory"):
        device.environment(memory=1)
    with pytest.raises(ValueError, match="no such order"):
        gpu.streams("sorted")


def test_a_reset_restores_the_initial_state(gpu: device.EmulatedGpu) -> None:
    gpu.set("memory_bytes", 4096)
    ok(cu.cuMemAlloc(16))
    gpu.fault("*:1:719")
    assert code(cu.cuMemAlloc(16)) == 719
    gpu.reset()
    assert (gpu.live_bytes(), gpu.calls("cuMemAlloc"), gpu.report()) == (0, 0, "")
    assert gpu.get("memory_bytes") != "4096"
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
    ok(cu.cuMemAlloc(16))


def test_a_driver_that_was_set_aside_is_restored_unchanged(gpu: device.EmulatedGpu) -> None:
    pointer, context = allocated([1, 2]), ok(cu.cuCtxGetCurrent())
    gpu.set("memory_bytes", 4096)
    with gpu.set_aside():
        assert code(cu.cuMemAlloc(16)) == 3
        assert (gpu.live_bytes(), gpu.get("memory_bytes")) == (0, str(512 << 20))
        ok(cu.cuInit(0))
        ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(0))))
        gpu.fault("cuMemAlloc:1:719")
        assert code(cu.cuMemAlloc(16)) == 719
        gpu.reset()
    assert int(ok(cu.cuCtxGetCurrent())) == int(context)
    assert gpu.get("memory_bytes") == "4096"
    assert contents(pointer, 2) == [1, 2]


def test_preloading_twice_gives_the_same_device(gpu: device.EmulatedGpu) -> None:
    gpu.set("memory_bytes", 4096)
    assert device.preload().get("memory_bytes") == "4096"


BEGIN = """
from cuda.bindings import driver as cu
print(int(cu.cuInit(0)[0]), end=" ", flush=True)
"""


def test_a_program_finds_the_library_and_its_knobs_in_the_environment() -> None:
    script = BEGIN + "print(cu.cuDeviceGetName(5, 0)[1], cu.cuDeviceTotalMem(0)[1])"
    done = in_process(script, device_names="Tiny", memory_bytes=5000)
    assert (done.stdout, done.stderr) == ("0 b'Tiny\\x00' 5000\n", "")


@pytest.mark.parametrize(
    ("knobs", "expected"), [({"devices": 0}, "100 "), ({"faults": "cuInit:1:803"}, "803 ")]
)
def test_initialisation_can_fail(knobs: dict[str, Any], expected: str) -> None:
    assert in_process(BEGIN, **knobs).stdout == expected


def test_after_a_fork_the_child_is_not_initialised() -> None:
    script = (
        BEGIN
        + """
import os
cu.cuCtxSetCurrent(cu.cuDevicePrimaryCtxRetain(0)[1])
child = os.fork()
codes = [int(result[0]) for result in (cu.cuMemAlloc(16), cu.cuInit(0), cu.cuCtxSynchronize())]
if child:
    os.waitpid(child, 0)
print(codes, flush=True)
os._exit(0)
"""
    )
    assert in_process(script).stdout == "0 [3, 3, 3]\n[0, 0, 0]\n"


def test_an_old_driver_lacks_functions() -> None:
    script = BEGIN + "print(int(cu.cuGraphInstantiate(0, 0)[0]))"
    done = in_process(script, driver_version=11030)
    assert "cuGraphInstantiate" in done.stderr
    assert in_process(script, driver_version=11040).stdout == "0 201\n"


def test_a_driver_older_than_cuda_12_lacks_a_function_that_the_bindings_need() -> None:
    done = in_process(BEGIN, old_driver=True)
    assert "cuGetProcAddress_v2" in done.stderr


def test_errors_are_printed_when_verbose() -> None:
    script = BEGIN + "cu.cuCtxSetCurrent(cu.cuDevicePrimaryCtxRetain(0)[1]); cu.cuMemAlloc(1)"
    done = in_process(script, faults="cuMemAlloc:1:719", verbose=1)
    assert done.stderr == "libcuda emulation: cuMemAlloc: injected error 719\n"


def test_preloading_after_another_driver_is_refused() -> None:
    script = BEGIN + "from cullama.emulation import device; device.preload()"
    done = in_process(script, old_driver=False)
    assert done.returncode == 0
    other = "import ctypes; ctypes.CDLL('libcuda.so.1'); from cullama.emulation import device;"
    done = in_process(other + "device.preload()", old_driver=True)
    assert "is loaded already" in done.stderr


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    source = tmp_path / "nothing.cpp"
    source.write_text("int nothing() { return 0; }\n")
    script = (
        "import sys; from pathlib import Path; from cullama.emulation import device;"
        f"print(device.built(device.Library('libnothing.so', (Path({str(source)!r}),), ())))"
    )
    variables = {"PYTHONPATH": PYTHONPATH, "CULLAMA_EMULATION_CACHE": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).is_file()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_compiler_errors_are_reported(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("int wrong( {\n")
    with pytest.raises(BuildError, match=r"libwrong\.so cannot be built"):
        device.compile_into(tmp_path, device.Library("libwrong.so", (source,), ()))
