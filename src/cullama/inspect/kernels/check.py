"""Checks kernels on the emulated GPU: the operators that launch them, against float64.

Each case of an operator runs in small, odd and wide sizes, in three orders of threads: the first
with the check of memory, the last with asynchronous copies that come early. What the emulator has
no rule for shows as a wrong result, whose element's last writer is named.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from ...cuda.driver import Device
from ...cuda.memory import DeviceArray
from ...cuda.module import Signature, ptx_folder, read_signatures
from ...cuda.operators import CudaOperators
from ...emulation.build import BuildError
from ...emulation.checking.faults import CheckedKernel
from ...emulation.counting.counts import Latencies
from ...emulation.device import EmulatedGpu, preload
from ...emulation.kernel import KernelError, Schedule
from ...emulation.ptx import PtxError
from ...emulation.start import start_emulation
from ...errors import DeviceError, UsageError
from ..operators.accuracy import errors_of_elements, tolerance_of
from ..operators.cases import CASES, Case
from ..operators.fixture import SMALL, Fixture, ModelSizes
from ..operators.reference import Floats
from .findings import FAULT_ORDER, Finding, of_error, of_fault, slow_accesses
from .launching import SeparateAllocations, launches_by
from .source import KernelSource

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # by the endings of symbols
ODD = ModelSizes("odd", 33, 37, 3, 1, 6, 301, 1, 33, 65)
WIDE = ModelSizes("wide", 1032, 520, 8, 2, 64, 520, 3, 40, 300)
SIZES = (SMALL, ODD, WIDE)
ORDERS = (Schedule(), Schedule("descending"), Schedule("random", 1, has_eager_copies=True))
MAX_STEPS = 3_000_000  # loop turns and waits of a block: a few seconds
MAX_STATIC_SHARED = 48 << 10  # bytes, as ptxas allows
LINES_TO_BUILD_WHOLE = 8000  # of PTX: below, building one kernel costs as much as building all
CHECKED = tuple(name for name in CASES if name != "captured step")  # others', in a graph
VARIANT = "__"  # NAME__anything is tested as NAME


@dataclass(frozen=True, repr=False)
class KernelCheck:
    """What was found about the kernels of one file."""

    source: KernelSource
    tests: dict[str, tuple[str, ...]]  # the cases that each kernel ran in
    findings: tuple[Finding, ...]
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)  # largest, and allowed

    @property
    def is_right(self) -> bool:
        return not any(finding.is_error for finding in self.findings)

    def __repr__(self) -> str:
        return self.as_text()

    def as_text(self) -> str:
        """Return a block for each finding, then a line for each kernel."""
        blocks = [finding.as_text(self.source) + "\n" for finding in self.findings]
        return "\n".join([*blocks, *map(self._summary, self.tests)])

    def _summary(self, kernel: str) -> str:
        own = [finding.is_error for finding in self.findings if finding.kernel == kernel]
        if any(own):
            return f"{kernel}: {sum(own)} error{'s' * (sum(own) > 1)}"
        error, allowed = self.errors[kernel]
        slow = f", {len(own)} warning{'s' * (len(own) > 1)}" if own else ""
        within = f"largest error {error:.1e}, allowed {allowed:.1e}"
        return f"{kernel}: right in {', '.join(self.tests[kernel])} ({within}){slow}"

    def as_json(self) -> dict[str, Any]:
        kernels = [
            {
                "kernel": kernel,
                "tests": tests,
                "largest_error": self.errors.get(kernel, (None, None))[0],
                "allowed_error": self.errors.get(kernel, (None, None))[1],
                "findings": [
                    each.as_json(self.source) for each in self.findings if each.kernel == kernel
                ],
            }
            for kernel, tests in self.tests.items()
        ]
        return {"compiler": self.source.compiler or None, "kernels": kernels}


def check_kernels(
    source: KernelSource,
    operator: str | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> KernelCheck:
    """Run the operators' cases with a file's kernels, and return what is wrong.

    `operator`: what kernels are tested as whose names are no symbol of ours.

    Raises:
        UsageError: no operator launches a kernel of the file, or there is no such operator.
        DeviceUnavailableError: the emulated GPU cannot be started.
    """
    start_emulation()
    with _nan_in_new_memory(preload()):
        return _Checker(source, operator, announce).checked()


@contextmanager
def _nan_in_new_memory(gpu: EmulatedGpu) -> Iterator[None]:
    """Have allocations start as NaN in every format, so that what is not written shows."""
    before = gpu.get("fill")
    gpu.set("fill", 255)
    try:
        yield
    finally:
        gpu.set("fill", before)


class _Checker:
    def __init__(
        self, source: KernelSource, operator: str | None, announce: Callable[[str], None]
    ) -> None:
        self._source, self._operator, self._announce = source, operator, announce
        self._found: dict[Any, Finding] = {}
        self._errors: dict[str, tuple[float, float]] = {}

    def checked(self) -> KernelCheck:
        tests: dict[str, tuple[str, ...]] = {}
        for kernel in self._source.kernels:
            symbol = self._symbol(kernel)
            dtype = _dtype_of(symbol)
            self._announce(f"{kernel}: as {symbol} …")
            before = len(self._found)
            self._check_declaration(kernel, symbol)
            cases = cases_of(symbol, dtype)
            tests[kernel] = tuple(dict.fromkeys(name for name, _ in cases))
            if len(self._found) == before:
                self._run(kernel, symbol, dtype, cases)
        found = sorted(self._found.values(), key=lambda each: (not each.is_error, each.line))
        return KernelCheck(self._source, tests, tuple(found), self._errors)

    def _symbol(self, kernel: str) -> str:
        """Return the kernel of ours in whose place this one is launched."""
        symbol, ours = kernel.partition(VARIANT)[0], shipped()
        if symbol in ours and self._operator is None:
            return symbol
        if self._operator is None:
            near = ", ".join(sorted(ours)[:4])
            raise UsageError(
                f"no operator launches {kernel}: name it like the kernel that it takes the place "
                f"of ({near} …; `cullama kernels list` has all), or give --operator"
            )
        ending = next((e for e in DTYPES if kernel.partition(VARIANT)[0].endswith("_" + e)), "f32")
        launched = symbols_of(self._operator, DTYPES[ending])
        if len(launched) != 1:
            raise UsageError(
                f"{self._operator} launches {', '.join(launched) or 'no kernel'}: "
                f"name {kernel} like one of them"
            )
        return launched[0]

    # --- before it runs

    def _check_declaration(self, kernel: str, symbol: str) -> None:
        line = self._source.definition(kernel)
        found, expected = _signature(self._source.ptx, kernel), shipped()[symbol]
        if found is None or found.types != expected.types:
            what = "a type that no operator sends" if found is None else _described(found)
            detail = f"it takes {what}, expected {_described(expected)}"
            self._add(
                Finding(kernel, "wrong signature", line, detail, f"take the arguments of {symbol}")
            )

    def _build(self, kernel: str) -> CheckedKernel | None:
        line, ptx = self._source.definition(kernel), self._source.ptx
        is_single = len(self._source.kernels) == 1
        is_alone = is_single or ptx.count("\n") > LINES_TO_BUILD_WHOLE
        try:
            built = CheckedKernel(ptx, kernel, is_alone=is_alone)
        except PtxError as error:
            line = self._source.line_of(error.source, error.line) or line
            detail, remedy = error.message, "the emulator lacks it: write it otherwise"
            self._add(Finding(kernel, "unsupported instruction", line, detail, remedy))
            return None
        except BuildError as error:
            detail = " ".join(str(error).split())[:300]
            self._add(Finding(kernel, "cannot be built", line, detail, "report this"))
            return None
        static, _ = built.static_bytes(kernel)
        if static > MAX_STATIC_SHARED:
            detail = f"{static} bytes of static shared memory, expected at most {MAX_STATIC_SHARED}"
            remedy = "use less, or dynamic shared memory, of which a block has up to 227 KiB"
            self._add(Finding(kernel, "too much shared memory", line, detail, remedy))
            return None
        return built

    # --- running

    def _run(self, kernel: str, symbol: str, dtype: str, cases: list[tuple[str, bool]]) -> None:
        built = self._build(kernel)
        if built is None:
            return
        slow: dict[Any, Finding] = {}
        built.check_pointers(preload().pointer_check)
        with built.watchdog(MAX_STEPS):
            for sizes in SIZES:
                for is_deterministic in sorted({mode for _, mode in cases}):
                    names = [name for name, mode in cases if mode == is_deterministic]
                    run = _Run(self._source, kernel, symbol, built)
                    with closing(_operators(dtype, is_deterministic)) as ops:
                        run.all(ops, names, sizes)
                    for finding in run.found:
                        self._add(finding)
                    before = self._errors.get(kernel, (0.0, 0.0))
                    self._errors[kernel] = max(before, (float(run.error), run.tolerance))
                    slow |= {finding.key: finding for finding in run.warnings}
                if any(finding.kernel == kernel for finding in self._found.values()):
                    break  # larger sizes would say the same
        for finding in slow.values():
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        self._found.setdefault(finding.key, finding)


class _Run:
    """Runs cases with one kernel in another's place, in all orders of threads."""

    def __init__(
        self, source: KernelSource, kernel: str, symbol: str, built: CheckedKernel
    ) -> None:
        self._source, self._kernel, self._symbol, self._built = source, kernel, symbol, built
        self.found: list[Finding] = []
        self.slow: list[Finding] = []
        self._unwritten: list[Finding] = []  # harmless, unless a result is wrong
        self.error, self.tolerance = 0.0, 0.0
        self._schedule = ORDERS[0]

    @property
    def warnings(self) -> list[Finding]:
        """What is slow, and reads of what nothing wrote that did no harm."""
        return self.slow + [replace(each, is_error=False) for each in self._unwritten]

    def all(self, ops: CudaOperators, names: Sequence[str], sizes: ModelSizes) -> None:
        fixture = Fixture(ops, ops.dtype_name, ops.dtype, sizes)
        with launches_by(ops, lambda file, name: self._launch if name == self._symbol else None):
            for name in names:
                for self._schedule in ORDERS:
                    if self.found:
                        return
                    try:
                        self._case(name, fixture)
                    except KernelError as error:
                        lines = self._built.reader.sources
                        self.found.append(of_error(self._kernel, error, self._source, lines))
                    except DeviceError as error:
                        line = self._source.definition(self._kernel)
                        found = Finding(self._kernel, "failed launch", line, str(error), "")
                        self.found.append(found)

    def _launch(self, grid: tuple[int, ...], threads: int, arguments: int, shared: int) -> None:
        self._built.is_checking = self._schedule == ORDERS[0]
        with self._built.scheduled(self._schedule):
            try:
                counts = self._built.count_raw(grid, threads, arguments, shared, 0, Latencies())
            finally:
                if self._built.is_checking:
                    self._note_faults()
        if self._built.is_checking:
            self.slow += slow_accesses(self._kernel, counts, self._source)

    def _note_faults(self) -> None:
        """Add faults, of those at the same lines the worst; a race leaves memory unwritten, too."""
        faults = sorted(self._built.faults, key=lambda fault: FAULT_ORDER.index(fault.kind))
        for fault in faults:
            finding = of_fault(self._kernel, fault, self._source)
            places = [{each.line, each.other_line} for each in self.found]
            is_known = {finding.line, finding.other_line} in places
            if fault.earlier is None:
                if not any(finding.line in place for place in places):
                    self._unwritten.append(finding)
            elif not is_known:
                self.found.append(finding)

    def _case(self, name: str, fixture: Fixture) -> None:
        case = CASES[name](fixture)
        out = case.run()
        found, expected = case.read(out), case.expected()
        tolerance = tolerance_of(case, fixture.dtype)
        for mine, theirs in zip(found, expected, strict=True):
            errors = _errors(case, mine, theirs)
            if errors.max(initial=0.0) <= tolerance:
                self.error, self.tolerance = max(self.error, errors.max(initial=0.0)), tolerance
            elif not self.found:
                wrong = self._wrong(name, case, out, mine, theirs, errors)
                self.found += self._unwritten or [wrong]

    def _wrong(
        self, name: str, case: Case, out: Any, mine: Floats, theirs: Floats, errors: Floats
    ) -> Finding:
        worst = (
            int(errors.argmax()) if np.isfinite(errors).all() else int(np.isinf(errors).argmax())
        )
        where = ", ".join(map(str, np.unravel_index(worst, errors.shape)))
        wrong = int((errors > tolerance_of(case, "float32")).sum())
        line, writer = self._source.definition(self._kernel), ""
        if isinstance(out, DeviceArray) and out.shape == mine.shape:
            address = out.address + worst * out.dtype.itemsize
            source = self._built.writer(address)
            line = self._source.line_of(source, 0) or line
            writer = "" if source else "; nothing wrote it"
        values = f"{mine.flat[worst]:.6g}, expected {theirs.flat[worst]:.6g}{writer}"
        order = "" if self._schedule == ORDERS[0] else f", threads in {self._schedule} order"
        detail = (
            f"{name} of {case.shape}: element [{where}] is {values}; "
            f"{wrong} of {errors.size} are wrong{order}"
        )
        what = "result that depends on the order of threads" if order else "wrong result"
        return Finding(self._kernel, what, line, detail, "compare it with the operator's formula")


def _errors(case: Case, mine: Floats, theirs: Floats) -> Floats:
    if mine.shape != theirs.shape:
        return np.full(max(1, theirs.size), np.inf)
    if case.is_exact:
        return (mine != theirs).astype(np.float64)
    return errors_of_elements(mine, theirs)


# --- our own kernels ------------------------------------------------------------------------------


@cache
def shipped() -> dict[str, Signature]:
    """Return the signatures of all kernels of the operators."""
    found: dict[str, Signature] = {}
    for path in sorted(ptx_folder((8, 0)).glob("*.ptx")):
        found |= read_signatures(path.read_text(encoding="utf-8"))
    return found


def _signature(ptx: str, kernel: str) -> Signature | None:
    try:
        return read_signatures(ptx)[kernel]
    except KeyError:  # a type that kernels of operators do not take
        return None


def _described(signature: Signature) -> str:
    names = {ctypes.c_uint64: "pointer", ctypes.c_int32: "int", ctypes.c_float: "float"}
    words = (names.get(kind) or f"{ctypes.sizeof(kind)} bytes" for kind in signature.types)
    return f"({', '.join(words)})"


def _dtype_of(symbol: str) -> str:
    """Return the storage type in which operators launch a kernel."""
    endings = [part for part in symbol.split("_") if part in DTYPES]
    return DTYPES[endings[0]] if endings else "float32"


def _operators(dtype: str, is_deterministic: bool) -> CudaOperators:
    pool = SeparateAllocations
    return CudaOperators(dtype, Device(), is_deterministic, pool, has_cublas=False)


@cache
def _launched(dtype: str, is_deterministic: bool) -> dict[str, frozenset[str]]:
    """Return the kernels that each case launches, of which none is executed."""
    launched: dict[str, frozenset[str]] = {}
    with closing(_operators(dtype, is_deterministic)) as ops:
        for name in CHECKED:
            seen: set[str] = set()

            def launch_of(file: str, kernel: str, seen: set[str] = seen) -> Any:
                return lambda *arguments: seen.add(kernel)

            with launches_by(ops, launch_of):
                case = CASES[name](Fixture(ops, dtype, ops.dtype, SMALL))
                seen.clear()
                case.run()
            launched[name] = frozenset(seen)
    return launched


def cases_of(symbol: str, dtype: str) -> list[tuple[str, bool]]:
    """Return the cases that launch a kernel, and whether by deterministic operators alone."""
    cases: dict[str, bool] = {}
    for is_deterministic in (False, True):
        for name, symbols in _launched(dtype, is_deterministic).items():
            if symbol in symbols:
                cases.setdefault(name, is_deterministic)
    if not cases:
        raise UsageError(f"no case launches {symbol}, so that it cannot be checked")
    return list(cases.items())


def symbols_of(operator: str, dtype: str) -> list[str]:
    names = [name for name in CHECKED if operator in (name, name.partition(",")[0])]
    if not names:
        known = dict.fromkeys(name.partition(",")[0] for name in CHECKED)
        raise UsageError(f"there is no operator {operator!r}, expected some of {', '.join(known)}")
    launched = _launched(dtype, False)
    return sorted(set().union(*(launched[name] for name in names)))
