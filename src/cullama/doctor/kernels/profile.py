"""Profiles operators' kernels: runs operators at given shapes, and predicts their launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

from ...backends import operators_for
from ...cuda.module import ptx_folder
from ...cuda.operators import CudaOperators
from ...emulation.device import preload
from ...emulation.start import start_emulation
from ...emulation.timing.cards import Card
from ...emulation.timing.profile import ProfiledLaunch, Profiler
from ...model.config import ModelConfig
from .launches import launches_of
from .shapes import chosen_cases

DEVICE_MEMORY = 1 << 42  # bytes: addresses only, for operands are never written


def profile(
    operators: Sequence[str],
    card: Card,
    dtype: str,
    config: ModelConfig,
    *,
    shapes: Sequence[Mapping[str, int]] = (),
    is_counted: bool = True,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[ProfiledLaunch]:
    """Yield the launches of each operator, with counters and a prediction if `is_counted`.

    Args:
        config: whose sizes operators have.
        shapes: numbers to take in place of its own, each for every operator.

    Raises:
        UsageError: there is no such operator, or a shape does not fit it.
        DeviceUnavailableError: the emulated GPU cannot be started.
    """
    cases = chosen_cases(operators, config, shapes)
    start_emulation()
    for knob, value in (
        ("compute_capabilities", card.capability),
        ("memory_bytes", DEVICE_MEMORY),
        ("fill", 0),  # not NaN, on which kernels may branch
    ):
        preload().set(knob, value)
    preload().streams("eager")  # what is uploaded is there when a kernel is counted
    ops = operators_for("emulated", dtype, None, None)
    assert isinstance(ops, CudaOperators)
    with closing(ops):
        folder = ptx_folder(ops.device.capability)
        profiler = Profiler(folder, card)
        for case, launch, times in launches_of(
            ops, folder, card, cases, config, is_counted=is_counted, announce=announce
        ):
            yield profiler.profiled(case.name, case.numbers, launch, times)
