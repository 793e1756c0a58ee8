"""Runs operators with random inputs on the emulated GPU, and yields their kernels' launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...cuda.operators import CudaOperators
from ...emulation.counting.counts import Latencies
from ...emulation.device import preload
from ...emulation.timing.recorder import Launch, Recorder
from ...errors import UsageError
from ...inspect.operators.cases import CASES
from ...inspect.operators.fixture import Fixture, ModelSizes


def chosen_cases(names: Sequence[str]) -> list[str]:
    """Return the cases of the self-test whose operator, or whole name, is among `names`.

    Raises:
        UsageError: there is none of a name.
    """
    if not names:
        return list(CASES)
    chosen = [case for case in CASES if case in names or case.partition(",")[0] in names]
    known = dict.fromkeys(case.partition(",")[0] for case in CASES)
    for name in names:
        if name not in CASES and name not in known:
            raise UsageError(f"there is no operator {name!r}, expected some of {', '.join(known)}")
    return chosen


def launches_of(
    ops: CudaOperators,
    folder: Path,
    names: Sequence[str],
    sizes: ModelSizes,
    latencies: Latencies | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, str, list[Launch]]]:
    """Yield each case's name and shape, and its launches, in the operators' type."""
    recorder = Recorder(folder, latencies)
    ops.kernels.replace_launches(recorder.launch_of)
    preload().set("fill", 0)  # not NaN, on which kernels may branch
    fixture = Fixture(ops, ops.dtype_name, ops.dtype, sizes)
    for name in names:
        announce(f"{name} …")
        recorder.is_counting = False
        case = CASES[name](fixture)
        ops.device.synchronize()  # what was uploaded for it
        recorder.launches, recorder.is_counting = [], True
        case.run()
        if not recorder.launches:
            announce(f"{name}: no kernel of kernels/, but cuBLAS, a copy or a graph")
        yield name, case.shape, recorder.launches
