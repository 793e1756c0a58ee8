"""Profiles operators' kernels: runs each operator with random inputs, and predicts its launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from ...backends import operators_for
from ...cuda.module import ptx_folder
from ...cuda.operators import CudaOperators
from ...emulation.device import preload
from ...emulation.start import start_emulation
from ...emulation.timing.cards import Card
from ...emulation.timing.profile import ProfiledLaunch, Profiler
from ...errors import UsageError
from ...inspect.operators.fixture import MODEL, ModelSizes
from ..model import examine_model
from .launches import chosen_cases, launches_of


def sizes_of(model: str | None) -> ModelSizes:
    """Return a model's sizes, the default model's for None.

    Raises:
        UsageError: it cannot be read.
    """
    if model is None:
        return MODEL
    fact, sizes = examine_model(model)
    if fact.problem:
        raise UsageError(f"{model}: {fact.found}")
    return sizes


def profile(
    operators: Sequence[str],
    card: Card,
    dtype: str,
    model: str | None,
    *,
    is_counted: bool = True,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[ProfiledLaunch]:
    """Yield the launches of each operator, with counters and a prediction if `is_counted`.

    Raises:
        UsageError: there is no such operator, or no such model.
        DeviceUnavailableError: the emulated GPU cannot be started.
    """
    cases, sizes = chosen_cases(operators), sizes_of(model)
    start_emulation()
    preload().set("compute_capabilities", card.capability)
    ops = operators_for("emulated", dtype, None, None)
    assert isinstance(ops, CudaOperators)
    latencies = card.latencies if is_counted else None
    with closing(ops):
        folder = ptx_folder(ops.device.capability)
        profiler = Profiler(folder, card)
        for case, shape, launches in launches_of(ops, folder, cases, sizes, latencies, announce):
            for launch in launches:
                yield profiler.profiled(case, shape, launch)
