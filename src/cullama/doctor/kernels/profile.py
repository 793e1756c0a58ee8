"""Profiles operators' kernels: counters, and the predicted time on a card with what limits it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ...backends import operators_for
from ...cuda.module import ptx_folder
from ...cuda.operators import CudaOperators
from ...emulation.counting.counts import Counts
from ...emulation.device import preload
from ...emulation.start import start_emulation
from ...errors import UsageError
from ..fixture import MODEL, ModelSizes
from ..model import examine_model
from .cards import CARDS, Card
from .launches import Launch, chosen_cases, launches_of
from .prediction import Prediction, predict
from .resources import Occupancy, Resources, occupancy, resources_of


@dataclass(frozen=True)
class ProfiledLaunch:
    """One launch of an operator: what it needs, and, where it was counted, how long it takes."""

    case: str
    shape: str
    launch: Launch
    resources: Resources | None  # where there is ptxas
    occupancy: Occupancy
    counts: Counts | None = None
    prediction: Prediction | None = None

    def as_json(self, card: Card) -> dict[str, Any]:
        launch, counts, told = self.launch, self.counts, self.prediction
        row: dict[str, Any] = {
            "operator": self.case,
            "shape": self.shape,
            "file": f"kernels/{launch.file}.cu",
            "kernel": launch.kernel,
            "grid": launch.grid,
            "threads": launch.threads,
            "dynamic_shared_bytes": launch.shared,
            "registers": self.resources and self.resources.registers,
            "static_shared_bytes": self.resources and self.resources.shared,
            "spilled_bytes": self.resources and self.resources.spilled,
            "blocks_of_an_sm": self.occupancy.blocks,
            "occupancy": round(self.occupancy.warps, 3),
            "occupancy_limit": self.occupancy.limit,
        }
        if counts and told:
            row["predicted"] = {
                "microseconds": round(told.microseconds, 3),
                "gap_microseconds": card.gap,
                "limit": told.limit,
                "share_of_bandwidth": round(self.share_of_bandwidth(card), 4),
                "terms": {name: round(term, 4) for name, term in told.terms.items()},
            }
            row["counters"] = counters(counts)
        return row

    def share_of_bandwidth(self, card: Card) -> float:
        """Return the bytes from DRAM over those that the card reads in the predicted time."""
        told = self.prediction
        return told.dram_bytes / 1e6 / card.read / told.microseconds if told else 0.0

    @property
    def waits_at(self) -> str:
        """Return the line that threads wait at most, and its share of their time."""
        if not self.counts or not self.counts.waits:
            return ""
        line, cycles = next(iter(self.counts.waits.items()))
        place = line if isinstance(line, int) else f"{line.file.rpartition('/')[2]}:{line.line}"
        return f"{place} {cycles / sum(self.counts.waits.values()):.0%}"


def counters(counts: Counts) -> dict[str, Any]:
    """Return a launch's counters, of the blocks that ran."""
    spaces = ("global", "shared", "local")
    return {
        "blocks_that_ran": counts.blocks,
        "bytes_loaded": {space: counts.bytes(space, stored=False) for space in spaces},
        "bytes_stored": {space: counts.bytes(space, stored=True) for space in spaces},
        "sectors_loaded": counts.sectors(stored=False),
        "sectors_stored": counts.sectors(stored=True),
        "coalescing": round(counts.coalescing, 4),
        "bank_conflicts": counts.bank_conflicts,
        "instructions": counts.kinds,
        "machine_instructions": counts.slots,
        "active_lanes": round(counts.active_lanes, 2),
        "loads_in_flight": round(counts.loads_in_flight, 2),
        "waits": [
            {"line": line if isinstance(line, int) else f"{line.file}:{line.line}", "cycles": n}
            for line, n in list(counts.waits.items())[:10]
        ],
    }


def card_named(name: str) -> Card:
    """Return a card of the table.

    Raises:
        UsageError: it has none of that name.
    """
    if name not in CARDS:
        raise UsageError(f"card is {name!r}, expected one of {', '.join(CARDS)}")
    return CARDS[name]


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
    known: dict[str, dict[str, Resources]] = {}
    with closing(ops):
        folder = ptx_folder(ops.device.capability)
        found = launches_of(ops, folder, cases, sizes, latencies, announce)
        for case, shape, launches in found:
            for launch in launches:
                if launch.file not in known:
                    known[launch.file] = resources_of(folder / f"{launch.file}.ptx", card)
                needs = known[launch.file].get(launch.kernel)
                room = occupancy(card, needs, launch.threads, launch.shared)
                told = predict(launch.counts, card, room.blocks) if launch.counts else None
                yield ProfiledLaunch(case, shape, launch, needs, room, launch.counts, told)
