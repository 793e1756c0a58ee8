"""Runs every operator on this machine, compares its outputs with the reference, and times it.

An operator's error is a finding: the operators after it are still tested. Inputs and expected
outputs are made in inspect/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ..backends import operators_for
from ..cpu.backend import HostBackend
from ..cuda.backend import CudaBackend
from ..errors import CullamaError, DeviceLostError
from ..files.tensor import DTYPES
from ..inspect.operators.accuracy import error_of, tolerance_of
from ..inspect.operators.cases import CASES, FEW, Case
from ..inspect.operators.clock import Clock, DeviceClock, HostClock
from ..inspect.operators.fixture import MODEL, SMALL, Fixture, ModelSizes
from ..model.operators import AnyOperators
from .findings import Problem
from .plan import DoctorPlan

SLOW = 0.03  # seconds for one small product: then a model's sizes would take minutes
MAX_NAMED = 4  # wrong operators in the text of a problem


@dataclass(frozen=True)
class OperatorResult:
    """The result of one operator; where it raised an error, only `failure` is set."""

    operator: str
    shape: str = ""
    error: float = math.nan
    tolerance: float = 0.0
    seconds: float | None = None
    bytes_per_second: float | None = None
    operations_per_second: float | None = None
    share_of_copy: float | None = None
    failure: str = ""

    @property
    def is_right(self) -> bool:
        return not self.failure and self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class SelfTest:
    """The results of all operators of a backend in one storage type."""

    backend: str  # "cpu", "cuda:0", "emulated"
    dtype: str
    description: str
    sizes: str
    copy_rate: float  # bytes a second, read and written; 0 where it was not measured
    rows: tuple[OperatorResult, ...]
    failure: str = ""  # the error that ended the test
    is_lost: bool = False  # the device refuses all further calls

    @property
    def problems(self) -> list[Problem]:
        """Return the error that ended the test, and the wrong operators in one problem."""
        what, problems = f"self-test {self.backend} {self.dtype}", []
        if self.failure:
            problems.append(Problem(what, self.failure, "operators that run", self._remedy))
        wrong = [row for row in self.rows if not row.is_right]
        if wrong:
            more = f"; and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
            found = "; ".join(map(_describe_wrong, wrong[:MAX_NAMED])) + more
            expected = "what numpy gives, within the tolerance"
            problems.append(Problem(what, found, expected, self._remedy))
        return problems

    @property
    def _remedy(self) -> str:
        if self.backend.startswith("cpu"):
            return "reinstall numpy and llvmlite (pip install --force-reinstall), and report this"
        if self.is_lost:
            return (
                "run again with CUDA_LAUNCH_BLOCKING=1, which names the kernel; look for Xid errors"
                " in `dmesg`, and whether the GPU is sound with `nvidia-smi -q -d ECC`; until then "
                "use --backend cpu"
            )
        return (
            "rebuild the kernels (`make clean ptx`) or reinstall cullama; if the error stays, "
            "report it, and use --backend cpu"
        )


def _describe_wrong(row: OperatorResult) -> str:
    if row.failure:
        return f"{row.operator}: {row.failure}"
    error = f"{row.error:.1e}" if math.isfinite(row.error) else "NaN"
    return f"{row.operator} is wrong: error {error}, at most {row.tolerance:.0e} expected"


def self_tests(plan: DoctorPlan, gpus: list[int], sizes: ModelSizes = MODEL) -> Iterator[SelfTest]:
    """Yield a self-test for each backend and storage type; a lost GPU is tested no further."""
    for dtype in plan.cpu_dtypes if plan.has_cpu else ():
        yield self_test(plan.cpu, dtype, plan, sizes)
    for gpu in gpus:
        backend = "emulated" if plan.is_emulated else f"cuda:{gpu}"
        for dtype in plan.cuda_dtypes:
            test = self_test(backend, dtype, plan, sizes)
            yield test
            if test.is_lost:
                break


def self_test(backend: str, dtype: str, plan: DoctorPlan, sizes: ModelSizes = MODEL) -> SelfTest:
    """Test all operators of a backend in one storage type; in small sizes if it is slow."""
    threads = plan.threads if backend == plan.cpu else None
    try:
        ops = operators_for(backend, dtype, threads, None, plan.is_deterministic)
    except Exception as error:
        is_lost = isinstance(error, DeviceLostError)
        return SelfTest(backend, dtype, backend, "no", 0.0, (), _error_text(error), is_lost)
    if plan.is_quick:
        sizes = SMALL
    rows: list[OperatorResult] = []
    copy_rate, failure, is_lost = 0.0, "", False
    with closing(ops):
        try:
            clock = _clock(ops)
            if sizes is not SMALL and _is_slow(ops, dtype, clock):
                sizes = SMALL
            copy_rate = clock.copy_rate(is_quick=sizes is SMALL)
            for row in run_cases(_fixture(ops, dtype, sizes), clock, copy_rate):
                rows.append(row)
        except Exception as error:
            failure, is_lost = _error_text(error), isinstance(error, DeviceLostError)
        return SelfTest(
            backend, dtype, ops.description, sizes.name, copy_rate, tuple(rows), failure, is_lost
        )


def _clock(ops: AnyOperators) -> Clock:
    if isinstance(ops, CudaBackend):
        return DeviceClock(ops.device)
    assert isinstance(ops, HostBackend)
    return HostClock(ops.thread_pool)


def _fixture(ops: AnyOperators, dtype: str, sizes: ModelSizes) -> Fixture:
    """Return a fixture; on the CPU activations are float32 in every storage type."""
    activation = np.dtype(np.float32) if isinstance(ops, HostBackend) else DTYPES[dtype]
    return Fixture(ops, dtype, activation, sizes)


def _is_slow(ops: AnyOperators, dtype: str, clock: Clock) -> bool:
    case = CASES["linear, one row"](_fixture(ops, dtype, MODEL))
    case.run()
    return clock.seconds(case.run, can_be_captured=False) * FEW > SLOW


def run_cases(fixture: Fixture, clock: Clock, copy_rate: float) -> Iterator[OperatorResult]:
    """Run all operators in order, and yield their results.

    Raises:
        DeviceLostError: the device was lost; the results before were yielded.
    """
    for operator, make in CASES.items():
        try:
            yield _run_case(operator, make(fixture), fixture, clock, copy_rate)
        except DeviceLostError:
            raise
        except Exception as error:  # of any kind: a kernel's file may be missing, or damaged
            yield OperatorResult(operator, failure=_error_text(error))


def _error_text(error: Exception) -> str:
    """Return an error's message, after its type where it is not an error of cullama."""
    return str(error) if isinstance(error, CullamaError) else f"{type(error).__name__}: {error}"


def _run_case(
    operator: str, case: Case, fixture: Fixture, clock: Clock, copy_rate: float
) -> OperatorResult:
    found, expected = case.read(case.run()), case.expected()
    tolerance, error = tolerance_of(case, fixture.dtype), error_of(case, found, expected)
    seconds = max(clock.seconds(case.run, case.can_be_captured), 1e-9)
    return OperatorResult(
        operator,
        case.shape,
        error,
        tolerance,
        seconds,
        case.traffic / seconds if case.traffic else None,
        case.operations / seconds if case.operations else None,
        case.traffic / seconds / copy_rate if case.traffic and copy_rate else None,
    )
