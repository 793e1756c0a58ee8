"""Peers measured in turn, round by round, and what the first of them has over each other one.

It knows what is measured, in which unit, and whether more is better; not how it is printed. A
ratio is taken within each round and is above 1 where the first peer is the better one, so that a
machine whose speed drifts cannot favour either.
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

READING = PeerRun(1, 512)
WRITING = PeerRun(1, 64, 32)
WRITING_FAR_ON = PeerRun(1, 2048, 32)
WRITING_TOGETHER = PeerRun(8, 16, 32)
REMEMBERING = PeerRun(1, 512, 32)  # what a process does before its memory is asked for

TEXT = "Once upon a time"

Result = TypeVar("Result")
# One measure of all entrants, one after the other: by entrant, a number for each quantity.
Heat: TypeAlias = dict[str, list[float]]

TOLERATED = 0.05  # of the processors' time, taken by others
TRIES = 3  # at work that others disturb


@dataclass(frozen=True)
class Quantity:
    name: str
    unit: str
    more_is_better: bool = False
    reads_all_weights: bool = False  # for each token: so it can be a share of what memory allows


@dataclass(frozen=True)
class Entrant:
    """One peer and one model: a process that stays, and fresh ones for what begins with it."""

    name: str
    worker: Worker
    begin: Callable[[], Worker]
    text: str | None = TEXT  # None where the model has no tokenizer


def _rate(entrant: Entrant, run: PeerRun) -> float:
    """Tokens a second, of all prompts together."""
    tokens = run.prompts * (1 if run.written else run.tokens)
    return tokens / entrant.worker.seconds(run)


def _far_on(entrant: Entrant) -> list[float]:
    near, far = (entrant.worker.seconds(run) for run in (WRITING, WRITING_FAR_ON))
    return [1 / far, far / near]


def _start(entrant: Entrant) -> list[float]:
    start = time.perf_counter()
    with entrant.begin() as worker:
        worker.ask("first_token", entrant.text)
        return [time.perf_counter() - start]


def _memory(entrant: Entrant) -> list[float]:
    with entrant.begin() as worker:
        worker.steps(REMEMBERING, 1 + REMEMBERING.written)
        return [worker.ask("peak_memory") / 1e6]


@dataclass(frozen=True)
class Measure:
    quantities: tuple[Quantity, ...]
    take: Callable[[Entrant], list[float]]  # a number for each quantity
    runs: tuple[PeerRun, ...] = ()  # that the long-lived processes do for it


MEASURES = {
    "prefill": Measure(
        (Quantity("prefill 512", "tok/s", more_is_better=True),),
        lambda entrant: [_rate(entrant, READING)],
        (READING,),
    ),
    "decode": Measure(
        (Quantity("decode at 64", "tok/s", more_is_better=True, reads_all_weights=True),),
        lambda entrant: [_rate(entrant, WRITING)],
        (WRITING,),
    ),
    "long": Measure(
        (
            Quantity("decode at 2,048", "tok/s", more_is_better=True, reads_all_weights=True),
            Quantity("… its cost over 64", "×"),
        ),
        _far_on,
        (WRITING, WRITING_FAR_ON),
    ),
    "batch": Measure(
        (Quantity("batch of 8", "tok/s", more_is_better=True),),
        lambda entrant: [_rate(entrant, WRITING_TOGETHER)],
        (WRITING_TOGETHER,),
    ),
    "start": Measure((Quantity("first token", "s"),), _start),
    "memory": Measure((Quantity("peak memory", "MB"),), _memory),
}


@dataclass(frozen=True)
class Spread:
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
        """How many times as good, by the rounds' ratios."""
        better, worse = (self, other) if self.quantity.more_is_better else (other, self)
        pairs = zip(better.numbers, worse.numbers, strict=True)
        return Spread.of([above / below for above, below in pairs])


@dataclass(frozen=True)
class PeerComparison:
    figures: list[Figure]  # by quantity, and of each quantity by entrant
    heats: int
    disturbed: int  # of them, however often they were repeated


def compare(
    entrants: list[Entrant],
    measures: list[str],
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> PeerComparison:
    others = Others(entrant.worker.process_id for entrant in entrants)
    _settle(entrants, measures, others)
    heats: dict[str, list[Heat]] = {name: [] for name in measures}
    disturbed = 0
    for turn in range(rounds):
        order = _rotated(entrants, turn)  # nobody always comes first
        for name in measures:
            heat, disturbance = _quietly(partial(_heat, MEASURES[name], order), others)
            heats[name].append(heat)
            disturbed += disturbance > TOLERATED
            progress(f"round {turn + 1} of {rounds}: {name}, others had {disturbance:.0%}")
    figures = [
        Figure(quantity, entrant.name, tuple(heat[entrant.name][i] for heat in heats[name]))
        for name in measures
        for i, quantity in enumerate(MEASURES[name].quantities)
        for entrant in entrants
    ]
    return PeerComparison(figures, rounds * len(measures), disturbed)


def _settle(entrants: list[Entrant], measures: list[str], others: Others) -> None:
    """Find each engine's fastest way through each run, where it has several."""
    for run in dict.fromkeys(run for name in measures for run in MEASURES[name].runs):
        for entrant in entrants:
            if entrant.worker.variants:
                fastest = partial(entrant.worker.fastest_variant, run)
                entrant.worker.chosen[run], _ = _quietly(fastest, others)


def _heat(measure: Measure, order: list[Entrant]) -> Heat:
    return {entrant.name: measure.take(entrant) for entrant in order}


def _quietly(work: Callable[[], Result], others: Others) -> tuple[Result, float]:
    """What came of work that nobody disturbed, or least of a few times; and how much it was."""
    quietest, least = others.share_during(work)
    for _ in range(TRIES - 1):
        if least <= TOLERATED:
            break
        result, disturbance = others.share_during(work)
        if disturbance < least:
            quietest, least = result, disturbance
    return quietest, least


def _rotated(entrants: list[Entrant], turn: int) -> list[Entrant]:
    first = turn % len(entrants)
    return entrants[first:] + entrants[:first]
