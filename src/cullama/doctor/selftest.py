"""Every operator run on this machine: held against numpy, and timed.

Whatever goes wrong is a finding, never an error: what is left can still be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..backends import operators_for
from ..cpu.backend import HostBackend
from ..cuda.backend import CudaBackend
from ..errors import CullamaError, DeviceLostError
from ..files.tensor import DTYPES
from ..model.operators import AnyOperators
from .cases import CASES, FEW, Case
from .clock import Clock, DeviceClock, HostClock
from .findings import Problem
from .fixture import MODEL, SMALL, Fixture, ModelSizes
from .plan import DoctorPlan
from .reference import Floats

# Of an element, relative to it and to the output's RMS; as the operators' own tests have it.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
SLOW = 0.03  # seconds for one small product: then a model's sizes would take minutes
MOST_NAMED = 4


@dataclass(frozen=True)
class OperatorResult:
    """One operator; where it failed, what it said is all there is."""

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
        return not self.failure and self.error <= self.tolerance  # NaN is not


@dataclass(frozen=True)
class SelfTest:
    """All operators of a backend in one storage type."""

    backend: str  # "cpu", "cuda:0"
    dtype: str
    description: str
    sizes: str
    copy_rate: float  # bytes a second, read and written; 0 where it was not measured
    rows: tuple[OperatorResult, ...]
    failure: str = ""  # what brought it to an end
    is_lost: bool = False  # the device does nothing more

    @property
    def problems(self) -> list[Problem]:
        what = f"self-test {self.backend} {self.dtype}"
        found = [Problem(what, self.failure, "operators that run", self._remedy)]
        return found * bool(self.failure) + self._wrong(what)

    def _wrong(self, what: str) -> list[Problem]:
        wrong = [row for row in self.rows if not row.is_right]
        if not wrong:
            return []
        more = f"; and {len(wrong) - MOST_NAMED} more" * (len(wrong) > MOST_NAMED)
        found = "; ".join(map(_said, wrong[:MOST_NAMED])) + more
        return [Problem(what, found, "what numpy gives, within the tolerance", self._remedy)]

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


def _said(row: OperatorResult) -> str:
    if row.failure:
        return f"{row.operator}: {row.failure}"
    error = f"{row.error:.1e}" if math.isfinite(row.error) else "NaN"
    return f"{row.operator} is wrong: error {error}, at most {row.tolerance:.0e} expected"


def self_tests(plan: DoctorPlan, gpus: list[int], sizes: ModelSizes = MODEL) -> Iterator[SelfTest]:
    """One for each backend and storage type; of a lost GPU, no more."""
    for dtype in plan.cpu_dtypes if plan.has_cpu else ():
        yield self_test(plan.cpu, dtype, plan, sizes)
    for gpu in gpus:
        for dtype in plan.cuda_dtypes:
            test = self_test(f"cuda:{gpu}", dtype, plan, sizes)
            yield test
            if test.is_lost:
                break


def self_test(backend: str, dtype: str, plan: DoctorPlan, sizes: ModelSizes = MODEL) -> SelfTest:
    threads = plan.threads if backend == plan.cpu else None
    try:
        ops = operators_for(backend, dtype, threads, None, plan.is_deterministic)
    except Exception as error:
        is_lost = isinstance(error, DeviceLostError)
        return SelfTest(backend, dtype, backend, "no", 0.0, (), _words(error), is_lost)
    try:
        return _tested(backend, dtype, ops, SMALL if plan.is_quick else sizes)
    finally:
        ops.close()


def _tested(backend: str, dtype: str, ops: AnyOperators, sizes: ModelSizes) -> SelfTest:
    rows: list[OperatorResult] = []
    copy_rate, failure, is_lost = 0.0, "", False
    try:
        clock = _clock(ops)
        if sizes is not SMALL and _is_slow(ops, dtype, clock):
            sizes = SMALL
        copy_rate = clock.copy_rate(is_quick=sizes is SMALL)
        for row in run_cases(_rig(ops, dtype, sizes), clock, copy_rate):
            rows.append(row)
    except Exception as error:
        failure, is_lost = _words(error), isinstance(error, DeviceLostError)
    return SelfTest(
        backend, dtype, ops.description, sizes.name, copy_rate, tuple(rows), failure, is_lost
    )


def _clock(ops: AnyOperators) -> Clock:
    if isinstance(ops, CudaBackend):
        return DeviceClock(ops.device)
    assert isinstance(ops, HostBackend)
    return HostClock(ops.thread_pool)


def _rig(ops: AnyOperators, dtype: str, sizes: ModelSizes) -> Fixture:
    """The CPU backend computes in float32, whatever it stores."""
    activation = np.dtype(np.float32) if isinstance(ops, HostBackend) else DTYPES[dtype]
    return Fixture(ops, dtype, activation, sizes)


def _is_slow(ops: AnyOperators, dtype: str, clock: Clock) -> bool:
    case = CASES["linear, one row"](_rig(ops, dtype, MODEL))
    case.run()
    return clock.seconds(case.run, can_be_captured=False) * FEW > SLOW


def run_cases(rig: Fixture, clock: Clock, copy_rate: float) -> Iterator[OperatorResult]:
    """All operators, one after the other; of a lost device, those before it was lost."""
    for operator, make in CASES.items():
        try:
            yield _row(operator, make(rig), rig, clock, copy_rate)
        except DeviceLostError:
            raise
        except Exception as error:  # a file that is missing, a kernel that is not in it, anything
            yield OperatorResult(operator, failure=_words(error))


def _words(error: Exception) -> str:
    """Of an error that is not ours, its kind is half of what it says."""
    return str(error) if isinstance(error, CullamaError) else f"{type(error).__name__}: {error}"


def _row(operator: str, case: Case, rig: Fixture, clock: Clock, copy_rate: float) -> OperatorResult:
    found, expected = case.read(case.run()), case.expected()
    tolerance = 0.0 if case.is_exact else TOLERANCE[rig.dtype] * case.roundings
    measure = _mistakes if case.is_exact else _error
    error = max(map(measure, found, expected))
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


def _error(found: Floats, expected: Floats) -> float:
    """The largest of any element, relative to what it should be and to the output's RMS."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    rms = float(np.sqrt(np.mean(expected**2)))
    return float(np.max(np.abs(found - expected) / (np.abs(expected) + rms)))


def _mistakes(found: Floats, expected: Floats) -> float:
    """The share of elements that are not the same."""
    if found.shape != expected.shape:
        return math.inf
    return float(np.mean(found != expected))
