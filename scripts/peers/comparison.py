"""Measure peers in turn, round by round, and compute the ratio of the first peer to each other.

It defines the measures and their units, and prints nothing. A ratio is computed within each round,
so that a machine whose speed drifts favours no peer; above 1 the first peer is better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeAlias, TypeVar

from .others import Others
from .worker import PeerRun, Worker

PREFILL = PeerRun(1, 512)
DECODE = PeerRun(1, 64, 32)
DECODE_LONG = PeerRun(1, 2048, 32)
DECODE_BATCH = PeerRun(8, 16, 32)
MEMORY_RUN = PeerRun(1, 512, 32)  # before the peak memory is read

TEXT = "Once upon a time"

Result = TypeVar("Result")
# One measure of all entrants, in turn: for each entrant, a number for each quantity.
Heat: TypeAlias = dict[str, list[float]]

TOLERATED = 0.05  # of the processors' time, taken by others
MAX_TRIES = 3  # of a measurement that other processes disturb


@dataclass(frozen=True)
class Quantity:
    """What a number is."""

    name: str
    unit: str
    more_is_better: bool = False
    reads_all_weights: bool = False  # for each token, so that memory limits it


@dataclass(frozen=True)
class Entrant:
    """A peer with a model: a process that stays, and new ones for measures of start and memory."""

    name: str
    worker: Worker
    begin: Callable[[], Worker]  # starts a new process
    text: str | None = TEXT  # None where the model has no tokenizer


def _rate(entrant: Entrant, run: PeerRun) -> float:
    """Return the tokens a second of all prompts together."""
    tokens = run.prompts * (1 if run.written else run.tokens)
    return tokens / entrant.worker.seconds(run)


def _decode_long(entrant: Entrant) -> list[float]:
    near, far = (entrant.worker.seconds(run) for run in (DECODE, DECODE_LONG))
    return [1 / far, far / near]


def _start(entrant: Entrant) -> list[float]:
    start = time.perf_counter()
    with entrant.begin() as worker:
        worker.ask("first_token", entrant.text)
        return [time.perf_counter() - start]


def _memory(entrant: Entrant) -> list[float]:
    with entrant.begin() as worker:
        worker.steps(MEMORY_RUN, 1 + MEMORY_RUN.written)
        return [worker.ask("peak_memory") / 1e6]


@dataclass(frozen=True)
class PeerMeasure:
    """How some quantities are measured together."""

    quantities: tuple[Quantity, ...]
    take: Callable[[Entrant], list[float]]  # a number for each quantity
    runs: tuple[PeerRun, ...] = ()  # in the processes that stay


MEASURES = {
    "prefill": PeerMeasure(
        (Quantity("prefill 512", "tok/s", more_is_better=True),),
        lambda entrant: [_rate(entrant, PREFILL)],
        (PREFILL,),
    ),
    "decode": PeerMeasure(
        (Quantity("decode at 64", "tok/s", more_is_better=True, reads_all_weights=True),),
        lambda entrant: [_rate(entrant, DECODE)],
        (DECODE,),
    ),
    "long": PeerMeasure(
        (
            Quantity("decode at 2,048", "tok/s", more_is_better=True, reads_all_weights=True),
            Quantity("… its cost over 64", "×"),
        ),
        _decode_long,
        (DECODE, DECODE_LONG),
    ),
    "batch": PeerMeasure(
        (Quantity("batch of 8", "tok/s", more_is_better=True),),
        lambda entrant: [_rate(entrant, DECODE_BATCH)],
        (DECODE_BATCH,),
    ),
    "start": PeerMeasure((Quantity("first token", "s"),), _start),
    "memory": PeerMeasure((Quantity("peak memory", "MB"),), _memory),
}


@dataclass(frozen=True)
class Spread:
    """The median and the range of some numbers."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, numbers: list[float]) -> Spread:
        return cls(median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Figure:
    """One quantity of one peer."""

    quantity: Quantity
    peer: str
    numbers: tuple[float, ...]  # by round

    @property
    def spread(self) -> Spread:
        return Spread.of(list(self.numbers))

    def gain_over(self, other: Figure) -> Spread:
        """Return how many times better this figure is, by the ratios of the rounds."""
        better, worse = (self, other) if self.quantity.more_is_better else (other, self)
        pairs = zip(better.numbers, worse.numbers, strict=True)
        return Spread.of([above / below for above, below in pairs])


@dataclass(frozen=True)
class PeerComparison:
    """All figures, and how many measurements were disturbed."""

    figures: list[Figure]  # by quantity, and of each quantity by entrant
    heats: int
    disturbed: int  # of these, even when repeated


def compare(
    entrants: list[Entrant],
    measures: list[str],
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> PeerComparison:
    others = Others(entrant.worker.process_id for entrant in entrants)
    _choose_variants(entrants, measures, others)
    heats: dict[str, list[Heat]] = {name: [] for name in measures}
    disturbed = 0
    for turn in range(rounds):
        order = _rotated(entrants, turn)  # so that no peer is always first
        for name in measures:
            heat, disturbance = _undisturbed(partial(_heat, MEASURES[name], order), others)
            heats[name].append(heat)
            disturbed += disturbance > TOLERATED
            progress(f"round {turn + 1} of {rounds}: {name}, other processes had {disturbance:.0%}")
    figures = [
        Figure(quantity, entrant.name, tuple(heat[entrant.name][i] for heat in heats[name]))
        for name in measures
        for i, quantity in enumerate(MEASURES[name].quantities)
        for entrant in entrants
    ]
    return PeerComparison(figures, rounds * len(measures), disturbed)


def _choose_variants(entrants: list[Entrant], measures: list[str], others: Others) -> None:
    """Choose the fastest variant of each peer for each run."""
    for run in dict.fromkeys(run for name in measures for run in MEASURES[name].runs):
        for entrant in entrants:
            if entrant.worker.variants:
                fastest = partial(entrant.worker.fastest_variant, run)
                entrant.worker.chosen[run], _ = _undisturbed(fastest, others)


def _heat(measure: PeerMeasure, order: list[Entrant]) -> Heat:
    return {entrant.name: measure.take(entrant) for entrant in order}


def _undisturbed(work: Callable[[], Result], others: Others) -> tuple[Result, float]:
    """Repeat work until other processes do not disturb it; return its result and their share.

    After `MAX_TRIES` it is the result with the least disturbance.
    """
    quietest, least = others.share_during(work)
    for _ in range(MAX_TRIES - 1):
        if least <= TOLERATED:
            break
        result, disturbance = others.share_during(work)
        if disturbance < least:
            quietest, least = result, disturbance
    return quietest, least


def _rotated(entrants: list[Entrant], turn: int) -> list[Entrant]:
    first = turn % len(entrants)
    return entrants[first:] + entrants[:first]
