"""The errors of single operators, and of a layer's operators together.

It holds figures that `figures.py` has computed; it compares no arrays and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..place import Place
from .figures import Figures, finite, total_relative


@dataclass(frozen=True)
class Operation:
    """One operator call of the model, over all tokens of the prompt."""

    place: Place
    own: Figures  # given the first side's inputs
    accumulated: Figures  # given the second side's own inputs

    def as_json(self) -> dict[str, Any]:
        return {
            "layer": self.place.layer,
            "section": self.place.section,
            "operator": self.place.operator,
            "operand": self.place.operand,
            "own": self.own.as_json(),
            "accumulated": self.accumulated.as_json(),
        }


@dataclass(frozen=True)
class Section:
    """A layer, or what comes before the first or after the last."""

    name: str
    operations: tuple[Operation, ...]

    @property
    def worst(self) -> Operation:
        """The operator with the largest error of its own."""
        return max(self.operations, key=lambda each: each.own.error)

    @property
    def relative(self) -> float:
        """RMS of the operators' own errors, relative to the RMS of the first side's results."""
        return total_relative([each.own for each in self.operations])

    @property
    def accumulated(self) -> float:
        """The largest accumulated RMS error of the operators, relative."""
        return max(each.accumulated.relative for each in self.operations)

    def as_json(self) -> dict[str, Any]:
        return {
            "section": self.name,
            "worst_operator": self.worst.place.name,
            "error": finite(self.worst.own.error),
            "max_error": max(each.own.max_error for each in self.operations),
            "relative": finite(self.relative),
            "accumulated": finite(self.accumulated),
        }
