"""One launch: its counters, what it needs of an SM, its predicted time and what limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from pathlib import Path
from typing import Any

from ..counting.counts import Counts
from .cards import Card
from .obstacles import Examined, Obstacle, obstacles, place_of
from .prediction import Prediction, predict
from .recorder import Launch
from .resources import Occupancy, Resources, occupancy, resources_of


@dataclass(frozen=True)
class ProfiledLaunch:
    """One launch of an operator: what it needs, and, where it was counted, how long it takes."""

    case: str
    shape: Mapping[str, int]
    launch: Launch
    resources: Resources | None  # where there is ptxas
    occupancy: Occupancy
    prediction: Prediction | None = None
    times: int = 1  # that it is made, in a step

    def as_json(self, card: Card) -> dict[str, Any]:
        launch, counts, told = self.launch, self.launch.counts, self.prediction
        row: dict[str, Any] = {
            "operator": self.case,
            "shape": dict(self.shape),
            "file": f"kernels/{launch.file}.cu",
            "kernel": launch.kernel,
            "times": self.times,
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
                "dram_bytes": round(told.dram_bytes),
                "share_of_bandwidth": round(self.share_of_bandwidth(card), 4),
                "terms": {name: round(term, 4) for name, term in told.terms.items()},
            }
            row["counters"] = counters(counts)
            together = min(self.occupancy.blocks, ceil(prod(launch.grid) / card.sms))
            in_flight = counts.bytes_in_flight * together / 1024
            row["counters"]["kilobytes_in_flight_of_an_sm"] = round(in_flight, 2)
            row["lines"] = [
                {
                    "line": place_of(line),
                    "machine_instructions": found.slots,
                    "idle_lanes": round(32 * found.idle_slots / max(1, found.slots), 2),
                    "wait_cycles": found.waits,
                    "sectors": found.sectors,
                    "bank_passes": found.passes,
                    "instructions": dict(found.kinds),
                }
                for line, found in counts.lines.items()
            ]
            row["obstacles"] = [
                {
                    "what": obstacle.what,
                    "line": obstacle.place,
                    "detail": obstacle.detail,
                    "remedy": obstacle.remedy,
                    "share": round(obstacle.share, 3),
                }
                for obstacle in self.obstacles(card)
            ]
        return row

    def obstacles(self, card: Card) -> list[Obstacle]:
        """Return what holds the launch back, the costliest first."""
        counts, told = self.launch.counts, self.prediction
        if counts is None or told is None:
            return []
        return obstacles(Examined(counts, told, self.occupancy, card))

    @property
    def microseconds(self) -> float:
        """Return the predicted time of one launch, 0 where it was not counted."""
        return self.prediction.microseconds if self.prediction else 0.0

    def share_of_bandwidth(self, card: Card) -> float:
        """Return the bytes from DRAM over those that the card reads in the predicted time."""
        told = self.prediction
        return told.dram_bytes / 1e6 / card.read / told.microseconds if told else 0.0

    @property
    def waits_at(self) -> str:
        """Return the line that threads wait at most, and its share of their time."""
        waits = self.launch.counts.waits if self.launch.counts else {}
        if not waits:
            return ""
        line, cycles = next(iter(waits.items()))
        place = place_of(line)
        return f"{place} {cycles / sum(waits.values()):.0%}"


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


class Profiler:
    """Predicts launches of the kernels in a folder of PTX files, on one card."""

    def __init__(self, folder: Path, card: Card) -> None:
        self._folder, self._card = folder, card
        self._resources = cache(resources_of)

    def profiled(
        self, case: str, shape: Mapping[str, int], launch: Launch, times: int = 1
    ) -> ProfiledLaunch:
        """Return a launch with its resources and, where it was counted, its prediction."""
        needs = self._resources(self._folder / f"{launch.file}.ptx", launch.kernel, self._card)
        room = occupancy(self._card, needs, launch.threads, launch.shared)
        told = predict(launch.counts, self._card, room.blocks) if launch.counts else None
        return ProfiledLaunch(case, shape, launch, needs, room, told, times)
