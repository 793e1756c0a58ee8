"""Runs operators on the emulated GPU, and yields the launches of their kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from ...cuda.memory import Pool
from ...cuda.operators import CudaOperators
from ...emulation.timing.cards import Card
from ...emulation.timing.recorder import Launch, Recorder
from ...model.config import ModelConfig
from .operands import Operands, run_case, run_step
from .shapes import STEP, Numbers, ProfiledCase

ACTIVATIONS = 16 << 20  # bytes that a step's activations lie in, at most


def launches_of(
    ops: CudaOperators,
    folder: Path,
    card: Card,
    cases: Sequence[ProfiledCase],
    config: ModelConfig,
    *,
    is_counted: bool,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[ProfiledCase, Launch, int]]:
    """Yield the launches of each case, and how often each is made."""
    recorder = Recorder(folder, card, is_counting=is_counted)
    ops.kernels.replace_launches(recorder.launch_of)
    for case in cases:
        announce(f"{case.name} …")
        with closing(Pool(ops.device)) as pool:
            on = Operands(ops, pool)
            if case.operator == STEP:
                yield from ((case, *each) for each in _step(on, recorder, config, case.numbers))
                continue
            recorder.begin()
            run_case(on, case)
            for launch in recorder.end():
                yield case, launch, 1


def _step(
    on: Operands, recorder: Recorder, config: ModelConfig, numbers: Numbers
) -> list[tuple[Launch, int]]:
    """Return the launches of a step: those of a layer are found by running one layer and two."""
    runs = []
    for layers in (1, 2):
        memory = on.ops.upload(np.zeros(ACTIVATIONS, np.uint8))
        warm = memory.address, memory.nbytes
        del memory  # activations will lie there
        recorder.begin(warm)
        run_step(on, config, layers, numbers)
        runs.append(recorder.end())
    once, twice = (Counter(launch.key for launch in run) for run in runs)
    latest = {launch.key: launch for launch in runs[1]}
    return [
        (launch, once[key] + (config.layers - 1) * (twice[key] - once[key]))
        for key, launch in latest.items()
    ]
