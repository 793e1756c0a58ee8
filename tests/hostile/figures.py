"""One goal of docs/hostile-files.md, and what was reached.

Each module that attacks a kind of file has `figures(count, seed) -> list[Figure]`, and
`scripts/soak_files.py` prints them, one row each. The goals are in those modules.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str  # the row: "F1 hostile safetensors"
    goal: str  # "0 crashes, 0 hangs > 1 s"
    reached: str  # the same figures as measured
    is_met: bool
