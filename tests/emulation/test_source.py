"""Kernels from source give the same results, and sanitizers find their kinds of planted bugs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cullama.emulation.build import BuildError
from cullama.emulation.kernel import SCHEDULES, BuiltModule, KernelError, Schedule
from emulation import sanitize
from emulation.source import build_source, source_of, toolkit_headers

PLANTED = Path(__file__).parent / "kernels" / "planted.cu"
X = np.arange(1, 513, dtype=np.float32)

LAUNCH = """
import sys, numpy as np
from pathlib import Path
from cullama.emulation.kernel import BuiltModule
from emulation.source import build_source
x = np.arange(1, 513, dtype=np.float32)
out = np.zeros(512, np.int32 if "overflow" in sys.argv[2] else np.float32)
module = BuiltModule(build_source(Path(sys.argv[3]), sys.argv[1]))
inputs = {1: [], 2: [x if "shared_out" not in sys.argv[2] else 1]}
module.launch(sys.argv[2], 1, 128, [out, *inputs[len(module.parameter_sizes(sys.argv[2]))]], 256)
print("finished")
"""


@pytest.fixture(autouse=True)
def _headers() -> None:
    try:
        toolkit_headers()
    except BuildError as error:
        pytest.skip(str(error))


def launched(sanitizer: str, kernel: str) -> str:
    """Return the output of a process that launches the planted kernel under the sanitizer."""
    done = subprocess.run(
        sanitize.command(["-c", LAUNCH, sanitizer, kernel, str(PLANTED)]),
        env=sanitize.environment(sanitizer),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
def test_the_same_scheduler_runs_it(schedule: Schedule) -> None:
    module, out = BuiltModule(build_source(PLANTED)), np.zeros(512, np.float32)
    module.launch("correct_reuse", 1, 128, [out, X], schedule=schedule)
    assert_array_equal(out, np.repeat(X[:16].reshape(4, 4).sum(1), 128))
    line = 1 + PLANTED.read_text().split("\n").index("  if (threadIdx.x % 2) {") + 2
    with pytest.raises(KernelError, match=f"divergent barrier: .* source line {line}|line {line}"):
        module.launch("divergent_barrier", 1, 64, [out], schedule=schedule)


def test_shared_memory_is_poisoned_here_too() -> None:
    module, out = BuiltModule(build_source(PLANTED)), np.zeros(128, np.float32)
    module.launch("uninitialised_shared", 1, 128, [out])
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("sanitizer", "kernel", "finds"),
    [
        ("address", "static_shared_out_of_bounds", "global-buffer-overflow"),
        ("address", "dynamic_shared_out_of_bounds", "use-after-poison"),
        ("undefined", "signed_overflow", "signed integer overflow"),
        ("undefined", "static_shared_out_of_bounds", "index 64 out of bounds"),
        ("thread", "missing_barrier", "data race"),
        ("thread", "shared_reused_too_early", "data race"),
        ("thread", "last_writer_wins", "data race"),
    ],
)
def test_each_sanitizer_finds_its_kind_of_bug(sanitizer: str, kernel: str, finds: str) -> None:
    said = launched(sanitizer, kernel)
    assert finds in said
    assert "planted.cu:" in said
    assert "finished" not in said


@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
@pytest.mark.parametrize("kernel", ["correct_barrier", "correct_reuse"])
def test_sanitizers_report_nothing_for_correct_kernels(sanitizer: str, kernel: str) -> None:
    assert launched(sanitizer, kernel) == "finished\n"


def test_the_source_of_ptx_is_found_by_its_exported_kernels() -> None:
    text = ".version 8.0\n.target sm_80\n.visible .entry rms_norm_f16() { ret; }\n"
    assert source_of(text).name == "rms_norm.cu"
    with pytest.raises(BuildError, match="exports nobody"):
        source_of(text.replace("rms_norm_f16", "nobody"))
