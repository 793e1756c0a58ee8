"""One goal of what a server survives, and what was reached.

Each module that attacks a server has `figures(models, scale) -> list[Figure]`; `make soak-server`
prints them, one row each. `scale` 1.0 is the whole attack, a test takes a small share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str  # the row: "F13 disconnects: blocks left"
    goal: str  # "0"
    reached: str
    is_met: bool
    is_timed: bool = False  # depends on what else the machine does: printed, and not tested


def at_most(
    name: str, reached: float, goal: float, unit: str = "", is_timed: bool = False
) -> Figure:
    space = " " if unit else ""
    said = f"{goal:g}" if goal == 0 else f"≤ {goal:g}"
    return Figure(
        name, f"{said}{space}{unit}", f"{reached:.4g}{space}{unit}", reached <= goal, is_timed
    )


def all_of(name: str, reached: int, goal: int, what: str) -> Figure:
    return Figure(name, f"{goal} of {goal} {what}", f"{reached} of {goal}", reached == goal)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the others does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0
