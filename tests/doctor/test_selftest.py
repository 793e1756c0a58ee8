"""The self-test finds an operator that is wrong, and goes on where one fails."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import pytest

from cullama.cpu.operators import CpuOperators
from cullama.cuda import module
from cullama.cuda.module import PTX_FOLDER
from cullama.doctor.plan import DoctorPlan
from cullama.doctor.selftest import OperatorResult, SelfTest, run_cases, self_test, self_tests
from cullama.errors import DeviceError, DeviceLostError
from cullama.inspect.operators.cases import CASES
from cullama.inspect.operators.clock import Clock
from cullama.inspect.operators.fixture import SMALL, Fixture
from cullama.sampling.draw import Drawn


class StoppedClock(Clock):
    """A clock for tests that measure no time."""

    def seconds(self, run: Callable[[], Any], can_be_captured: bool) -> float:
        return 0.5

    def copy_rate(self, is_quick: bool) -> float:
        return 1e9


def cpu_rows(ops: CpuOperators, dtype: str = "float32") -> dict[str, OperatorResult]:
    fixture = Fixture(ops, dtype, np.dtype(np.float32), SMALL)
    return {row.operator: row for row in run_cases(fixture, StoppedClock(), 1e9)}


def cpu(dtype: str = "float32") -> CpuOperators:
    return CpuOperators(dtype, threads=1, has_tiles=False)


def wrong(rows: dict[str, OperatorResult]) -> set[str]:
    return {name for name, row in rows.items() if not row.is_right}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_operators_of_a_working_backend_pass(dtype: str) -> None:
    rows = cpu_rows(cpu(dtype), dtype)
    assert list(rows) == list(CASES)
    assert wrong(rows) == set()


def slightly_off(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator with one number wrong, by a tenth of the output's standard deviation."""

    def off(self: CpuOperators, *arguments: Any) -> Any:
        out = np.array(operator(self, *arguments))
        out.reshape(-1)[-1] += 0.1 * out.std()
        return out

    return off


@pytest.mark.parametrize(
    ("operator", "shown_by"),
    [
        ("embed", {"embed"}),
        ("linear", {"linear, one row", "linear, few rows", "linear, many rows", "logits"}),
        ("rms_norm", {"rms_norm", "logits"}),
        ("silu_mul", {"silu_mul"}),
        ("rope_and_store", {"rope_and_store"}),
        ("attention", {"attention, decode", "attention, prefill", "attention, long"}),
        ("add", {"add"}),
        ("mul", {"mul"}),
        ("matmul", {"matmul"}),
        ("logits", {"logits"}),
    ],
)
def test_one_wrong_number_in_an_output_is_found(
    operator: str, shown_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = getattr(CpuOperators, operator)
    monkeypatch.setattr(CpuOperators, operator, slightly_off(sound))
    assert shown_by <= wrong(cpu_rows(cpu()))


def test_keys_and_values_that_are_not_stored_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cullama.cpu.operators.store", lambda *arguments: None)
    assert "rope_and_store" in wrong(cpu_rows(cpu()))


def test_blocks_that_are_not_copied_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuOperators, "copy_blocks", lambda *arguments: None)
    assert wrong(cpu_rows(cpu())) == {"copy_blocks"}


def test_a_wrong_sampled_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def next_to(self: CpuOperators, logits: Any, draws: Any) -> Any:
        return lambda: [Drawn(int(row.argmax()) + 1, None) for row in logits]

    monkeypatch.setattr(CpuOperators, "sample", next_to)
    assert wrong(cpu_rows(cpu())) == {"sample, greedy", "sample, drawn"}


def test_a_graph_that_replays_an_old_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(self: CpuOperators, step: Any) -> Any:
        first: list[Any] = []

        def replay(batch: Any) -> Any:
            first.append(step(batch))
            return first[0]

        return replay

    monkeypatch.setattr(CpuOperators, "graph", stale)
    assert wrong(cpu_rows(cpu())) == {"captured step"}


def test_nan_in_an_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuOperators, "add", lambda self, x, y: x * np.nan)
    row = cpu_rows(cpu())["add"]
    assert row.error == math.inf
    assert not row.is_right


def test_a_failing_operator_reports_its_error_and_the_others_are_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: Any) -> None:
        raise DeviceError("the kernel is tired; let it sleep")

    monkeypatch.setattr(CpuOperators, "mul", fails)
    rows = cpu_rows(cpu())
    assert list(rows) == list(CASES)
    assert wrong(rows) == {"mul"}
    assert rows["mul"].failure == "the kernel is tired; let it sleep"


def test_a_lost_device_ends_its_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*arguments: Any) -> None:
        raise DeviceLostError("an illegal memory access")

    monkeypatch.setattr(CpuOperators, "mul", dies)
    test = self_test("cpu:numpy", "float32", DoctorPlan(backend="cpu:numpy", is_quick=True))
    assert [row.operator for row in test.rows] == list(CASES)[: list(CASES).index("mul")]
    assert test.is_lost
    assert test.problems[0].found == "an illegal memory access"
    assert (
        "CUDA_LAUNCH_BLOCKING" in SelfTest("cuda:0", "float32", *ended_as(test)).problems[0].remedy
    )


def ended_as(test: SelfTest) -> tuple[Any, ...]:
    return (test.description, test.sizes, test.copy_rate, (), test.failure, test.is_lost)


def test_rates_are_bytes_and_operations_per_second() -> None:
    rows = cpu_rows(cpu())
    greedy = rows["sample, greedy"]
    assert greedy.bytes_per_second == 4 * SMALL.vocabulary * 4 / 0.5
    assert greedy.share_of_copy == greedy.bytes_per_second / 1e9
    matmul = rows["matmul"]
    assert matmul.bytes_per_second is None
    assert matmul.operations_per_second == 2 * 4 * 40 * 16 * 40 / 0.5


@pytest.mark.gpu
def test_all_operators_of_a_working_gpu_pass_in_every_storage_type() -> None:
    gpu.require()
    tests = list(self_tests(DoctorPlan(backend="cuda", is_quick=True), [0]))
    assert [test.dtype for test in tests] == ["float32", "float16", "bfloat16"]
    for test in tests:
        assert test.problems == []
        assert [row.operator for row in test.rows] == list(CASES)
        assert test.copy_rate > 0
        assert all(row.seconds is not None and row.seconds > 0 for row in test.rows)


@pytest.mark.gpu
def test_a_kernel_with_a_wrong_constant_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constant is log₂ e, made a little too small."""
    gpu.require()
    monkeypatch.setattr(module, "PTX_FOLDER", tmp_path)
    shutil.copytree(PTX_FOLDER, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/silu_mul.ptx"):
        text = path.read_text()
        sabotaged = re.sub("0f([3B])FB8AA3B", r"0f\1FB80000", text)
        assert sabotaged != text
        path.write_text(sabotaged)
    test = self_test("cuda:0", "float32", DoctorPlan(backend="cuda", is_quick=True))
    assert {row.operator for row in test.rows if not row.is_right} == {"silu_mul"}
    (problem,) = test.problems
    assert problem.what == "self-test cuda:0 float32"
    assert problem.found.startswith("silu_mul is wrong: error ")
    assert "make clean ptx" in problem.remedy


@pytest.mark.gpu
def test_a_missing_kernel_file_fails_only_its_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.require()
    monkeypatch.setattr(module, "PTX_FOLDER", tmp_path)
    shutil.copytree(PTX_FOLDER, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/silu_mul.ptx"):
        path.unlink()
    test = self_test("cuda:0", "float32", DoctorPlan(backend="cuda", is_quick=True))
    failed = {row.operator: row.failure for row in test.rows if not row.is_right}
    assert failed.keys() == {"silu_mul"}
    assert "silu_mul.ptx" in failed["silu_mul"]
