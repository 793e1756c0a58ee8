"""Swaps a kernel of a running model for another one, once that has been checked.

On the emulated GPU it is checked by `check.py`; on a real one its results are compared with the
operator's in float64, in the same cases. Speeds of the old and the new kernel are measured on a
real GPU and predicted on the emulated one. A kernel that fails leaves the old one in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...cuda.driver import Device
from ...cuda.module import Size3, ptx_folder
from ...cuda.operators import CudaOperators
from ...emulation.counting.counts import CountedKernel, Counts
from ...emulation.ptx import alone
from ...emulation.start import is_started
from ...emulation.timing.cards import Card, card_named
from ...emulation.timing.prediction import Prediction, predict
from ...emulation.timing.resources import occupancy, resources_of
from ...engine.engine import Engine
from ...errors import UsageError
from ...model.config import ModelConfig
from ..operators.accuracy import error_of, tolerance_of
from ..operators.cases import CASES
from ..operators.clock import DeviceClock
from ..operators.fixture import MODEL, Fixture, ModelSizes
from .check import SIZES, VARIANT, KernelCheck, cases_of, check_kernels, shipped, symbols_of
from .launching import launches_by
from .source import KernelSource, KernelSourceError, kernel_source

SAMPLE = 4  # blocks that stand for a launch
STAYS = "the old kernel stays"


@dataclass(frozen=True)
class KernelSpeed:
    """How long a kernel takes in its operator's first case; the rest where it is predicted."""

    microseconds: float
    held_by: str = ""  # what limits it
    share_of_bandwidth: float | None = None  # bytes from DRAM over those read in that time
    counts: Counts | None = None  # of the last launch

    def __str__(self) -> str:
        share = self.share_of_bandwidth
        shown = "" if share is None else f", {share:.1%} of the bandwidth, held by {self.held_by}"
        return f"{self.microseconds:.2f} µs{shown}"


@dataclass(frozen=True)
class TriedKernel:
    """A kernel beside the one whose place it takes: errors, and the speeds of both."""

    operator: str
    old: str  # the symbol
    new: str
    tests: tuple[str, ...]
    error: float  # the largest, relative to the element and the RMS
    allowed: float
    before: KernelSpeed
    after: KernelSpeed
    measured_by: str  # "predicted for h200", "measured on …"

    @property
    def speedup(self) -> float:
        return self.before.microseconds / self.after.microseconds

    def __str__(self) -> str:
        return (
            f"{self.operator}: {self.new} in the place of {self.old}\n"
            f"  right in {', '.join(self.tests)}: largest error {self.error:.1e}, "
            f"allowed {self.allowed:.1e}\n"
            f"  before: {self.before}\n"
            f"  after:  {self.after} ({self.speedup:.2f} × as fast), {self.measured_by}"
        )


class Replacement:
    """A kernel that runs in another's place until `undo` is called."""

    def __init__(self, tried: TriedKernel, engine: Engine, undo: Callable[[], None]) -> None:
        self.tried, self.is_active = tried, True
        self._engine, self._undo = engine, undo

    def undo(self) -> None:
        """Put the old kernel back; nothing happens the second time."""
        if self.is_active:
            with self._engine.exclusive() as access:
                self._undo()
                access.clear_prefix_cache()
        self.is_active = False

    def __repr__(self) -> str:
        return str(self.tried) + ("" if self.is_active else "\n  undone")


class ReplaceableKernels:
    """The kernels of a model that runs on a GPU: `llm.kernels`."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        self._engine, self._config = engine, config
        self._replacements: list[Replacement] = []

    def replace(
        self,
        operator: str,
        source: str | os.PathLike[str],
        *,
        kernel: str | None = None,
        card: str = "h200",
    ) -> Replacement:
        """Check a kernel, and launch it from now on where the operator launched its own.

        Args:
            operator: as `cullama kernels list` names it, such as "rms_norm".
            source: CUDA source or PTX, as text or as a file.
            kernel: its name in the source, where that has several for the operator.
            card: GPU that speeds are predicted for on the emulated GPU.

        Returns:
            Errors and speeds of both; `undo()` puts the old kernel back.

        Raises:
            UsageError: the model is not on a GPU; no such operator or card; no kernel for it.
            KernelSourceError: it does not compile, or is not right. The old kernel stays.
        """
        with self._engine.exclusive() as access:
            ops = access.ops
        if not isinstance(ops, CudaOperators):
            raise UsageError(
                "kernels are replaced on a GPU, and this model runs on the CPU: load it with "
                'backend="cuda", or with backend="emulated", which needs no GPU'
            )
        trial = _Trial(operator, ops, self._config, card_named(card))
        try:
            tried, ptx = trial.run(source, kernel)
        except KernelSourceError as error:
            raise KernelSourceError(f"{error}; {STAYS}", error.line) from None
        with self._engine.exclusive() as access:
            ops.device.make_current(force=True)
            undo = ops.kernels.replace(tried.old, ptx, tried.new)
            access.clear_prefix_cache()
        self._replacements.append(Replacement(tried, self._engine, undo))
        return self._replacements[-1]

    def check(self, source: str | os.PathLike[str], operator: str | None = None) -> KernelCheck:
        """Return what is wrong with kernels, by line, as `cullama kernels check` does.

        Raises:
            UsageError: the GPU of this process is a real one; a kernel belongs to no operator.
            KernelSourceError: it does not compile.
        """
        if not is_started():
            raise UsageError(
                "kernels are checked on the emulated GPU, which needs a process without another: "
                'use backend="emulated", or `cullama kernels check`'
            )
        return check_kernels(kernel_source(source), operator)

    @contextmanager
    def trying(
        self, operator: str, source: str | os.PathLike[str], **options: Any
    ) -> Iterator[Replacement]:
        """As `replace`, until the `with` ends."""
        made = self.replace(operator, source, **options)
        try:
            yield made
        finally:
            made.undo()

    def undo(self) -> None:
        """Put all of the model's own kernels back."""
        for made in self._replacements:
            made.undo()

    def __repr__(self) -> str:
        active = [repr(made) for made in self._replacements if made.is_active]
        return "\n".join(active) or "no kernel is replaced"


class _Trial:
    """Checks and times one kernel, with operators of its own beside the model's."""

    def __init__(self, operator: str, ops: CudaOperators, config: ModelConfig, card: Card) -> None:
        self._operator, self._ops, self._config, self._card = operator, ops, config, card
        self._dtype = ops.dtype_name

    def run(self, given: str | os.PathLike[str], kernel: str | None) -> tuple[TriedKernel, str]:
        """Return what was found, and the kernel's PTX."""
        is_hopper = self._ops.device.capability == (9, 0) and not is_started()
        source = kernel_source(given, "compute_90a" if is_hopper else "compute_80")
        symbol, name = self._chosen(source, kernel)
        source = replace(source, ptx=alone(source.ptx, name))
        if is_started():
            tests, error, allowed = self._checked(source, name)
        else:
            tests, error, allowed = self._compared(source, symbol, name)
        case = tests[0]
        if is_started():
            before = self._predicted(case, symbol, _own_ptx(symbol), symbol)
            after = self._predicted(case, symbol, source.ptx, name)
            by = f"predicted for {self._card.name}"
        else:
            before = self._measured(case, symbol, None)
            after = self._measured(case, symbol, (source.ptx, name))
            by = f"measured on {self._ops.device.name}"
        found = (tests, error, allowed, before, after, by)
        return TriedKernel(self._operator, symbol, name, *found), source.ptx

    def _chosen(self, source: KernelSource, wanted: str | None) -> tuple[str, str]:
        """Return the symbol to replace, and the kernel of the source that takes its place."""
        symbols = symbols_of(self._operator, self._dtype)
        names = [name for name in source.kernels if wanted in (None, name)]
        found = [name for name in names if name.partition(VARIANT)[0] in symbols]
        if not found and len(symbols) == len(names) == 1:
            return symbols[0], names[0]
        if len(found) != 1:
            raise UsageError(
                f"{source.name} has {', '.join(found or names) or 'no ' + str(wanted)}, expected "
                f"one of {', '.join(symbols)}, which {self._operator} launches in {self._dtype}"
                + (": name one with kernel=" if found else "")
            )
        return found[0].partition(VARIANT)[0], found[0]

    # --- whether it is right

    def _checked(self, source: KernelSource, name: str) -> tuple[tuple[str, ...], float, float]:
        known = name.partition(VARIANT)[0] in shipped()
        checked = check_kernels(source, None if known else self._operator)
        errors = [finding for finding in checked.findings if finding.is_error]
        if errors:
            first, more = errors[0], f" (and {len(errors) - 1} more)" * (len(errors) > 1)
            place = f"{source.name}:{first.line}" if first.line else source.name
            raise KernelSourceError(f"{place}: {first.what}: {first.detail}{more}", first.line)
        return (checked.tests[name], *checked.errors[name])

    def _compared(
        self, source: KernelSource, symbol: str, name: str
    ) -> tuple[tuple[str, ...], float, float]:
        """Compare results on the GPU itself, with kernels that may not end or fault there."""
        cases = cases_of(symbol, self._dtype)
        worst = (0.0, 0.0)
        for is_deterministic in sorted({mode for _, mode in cases}):
            with self._operators(is_deterministic, symbol, (source.ptx, name)) as ops:
                for sizes in SIZES:
                    for case in [case for case, mode in cases if mode == is_deterministic]:
                        worst = max(worst, self._error(ops, case, sizes, source))
        return tuple(case for case, _ in cases), *worst

    def _error(
        self, ops: CudaOperators, name: str, sizes: ModelSizes, source: KernelSource
    ) -> tuple[float, float]:
        case = CASES[name](Fixture(ops, self._dtype, ops.dtype, sizes))
        error = error_of(case, case.read(case.run()), case.expected())
        allowed = tolerance_of(case, self._dtype)
        if not error <= allowed:
            found = f"{name} of {case.shape}: largest error {error:.1e}, allowed {allowed:.1e}"
            raise KernelSourceError(f"{source.name}: wrong result: {found}")
        return error, allowed

    @contextmanager
    def _operators(
        self, is_deterministic: bool, symbol: str = "", kernel: tuple[str, str] | None = None
    ) -> Iterator[CudaOperators]:
        """Operators on the model's GPU, with another kernel (PTX and name) in a symbol's place."""
        device = Device(self._ops.device.index)
        with closing(CudaOperators(self._dtype, device, is_deterministic, has_cublas=False)) as ops:
            if kernel:
                ops.kernels.replace(symbol, *kernel)
            yield ops

    # --- how fast it is

    @property
    def _sizes(self) -> ModelSizes:
        """The model's sizes, with the self-test's numbers of tokens up to its context."""
        config = self._config
        lengths = (MODEL.rows, MODEL.context, MODEL.long_context)
        return ModelSizes(
            "the model",
            *(config.hidden_size, config.intermediate_size, config.heads, config.kv_heads),
            *(config.head_dim, config.vocab_size),
            *(min(length, config.context_length) for length in lengths),
        )

    def _predicted(self, case: str, symbol: str, ptx: str, name: str) -> KernelSpeed:
        """Predict a case's launches of one kernel, as one; other kernels are left out."""
        counted, card = CountedKernel(ptx, name), self._card
        needs, found = resources_of(ptx, name, card), list[tuple[Counts, Prediction]]()

        def launch(grid: Size3, threads: int, arguments: int, shared: int) -> None:
            counts = counted.count_raw(grid, threads, arguments, shared, SAMPLE, card.latencies)
            resident = occupancy(card, needs, threads, shared).blocks
            found.append((counts, predict(counts, card, resident)))

        def skip(*launch: Any) -> None:
            """Leave a kernel out: results do not matter."""

        with (
            self._operators(False) as ops,
            launches_by(ops, lambda file, kernel: launch if kernel == symbol else skip),
        ):
            ready = CASES[case](Fixture(ops, self._dtype, ops.dtype, self._sizes))
            found.clear()
            counted.empty_l2(card.l2_megabytes << 20)
            ready.run()
        microseconds = sum(told.microseconds for _, told in found)
        moved = sum(told.dram_bytes for _, told in found) / 1e6
        counts, last = found[-1]
        return KernelSpeed(microseconds, last.limit, moved / card.read / microseconds, counts)

    def _measured(self, case: str, symbol: str, kernel: tuple[str, str] | None) -> KernelSpeed:
        with self._operators(False, symbol, kernel) as ops:
            ready = CASES[case](Fixture(ops, self._dtype, ops.dtype, self._sizes))
            ready.run()
            seconds = DeviceClock(ops.device).seconds(ready.run, ready.can_be_captured)
        return KernelSpeed(seconds * 1e6)


def _own_ptx(symbol: str) -> str:
    for path in sorted(ptx_folder((8, 0)).glob("*.ptx")):
        text = path.read_text(encoding="utf-8")
        if f".entry {symbol}(" in text:
            return text
    raise AssertionError(f"{symbol} is in no PTX file")
