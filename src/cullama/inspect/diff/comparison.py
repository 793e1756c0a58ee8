"""What came of holding one side against the other: where they part, and in how many words.

It holds figures, not tensors; it computes no error and draws no picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import isfinite
from typing import Any, NamedTuple

from ..watching import Place
from .figures import Figures, total_relative
from .logits import LogitFigures, Turn


class Tolerance(NamedTuple):
    share: float  # what `Figures.error` may be
    source: str  # for people: the storage type it comes from

    def __str__(self) -> str:
        return f"{self.share:.1e} ({self.source})"


@dataclass(frozen=True)
class Operation:
    """One call of the model, for all tokens."""

    place: Place
    own: Figures
    accumulated: Figures

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
    """A layer, or what stands before the first or behind the last."""

    name: str
    operations: tuple[Operation, ...]

    @property
    def worst(self) -> Operation:
        return max(self.operations, key=lambda each: each.own.error)

    @property
    def relative(self) -> float:
        """The RMS of its operators' own errors, relative to what they should have given."""
        return total_relative([each.own for each in self.operations])

    @property
    def accumulated(self) -> float:
        """The largest relative RMS error of its operators where errors travel on."""
        return max(each.accumulated.relative for each in self.operations)

    def as_json(self) -> dict[str, Any]:
        return {
            "section": self.name,
            "worst_operator": self.worst.place.name,
            "error": _finite(self.worst.own.error),
            "max_error": max(each.own.max_error for each in self.operations),
            "relative": _finite(self.relative),
            "accumulated": _finite(self.accumulated),
        }


@dataclass(frozen=True)
class Comparison:
    """The second side held against the first, for one prompt.

    `print` it, leave it at the end of a notebook's cell, or take `as_json()` or `page()`.
    """

    sides: tuple[str, str]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]  # of each token
    tolerance: Tolerance
    operations: tuple[Operation, ...]  # in the order in which they ran
    logits: LogitFigures
    is_detailed: bool = False
    bypassed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # each side's own larger words

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        by_name = groupby(self.operations, key=lambda each: each.place.section)
        return tuple(Section(name, tuple(some)) for name, some in by_name)

    @property
    def parting(self) -> tuple[Operation, ...]:
        """Operators whose own error is beyond the tolerance, in order."""
        return tuple(each for each in self.operations if each.own.error > self.tolerance.share)

    @property
    def first(self) -> Operation | None:
        """The first place where they part: the first operator that is wrong by itself."""
        return next(iter(self.parting), None)

    @property
    def first_accumulated(self) -> Operation | None:
        """The first place beyond the tolerance where errors travel on through the layers."""
        beyond = (e for e in self.operations if e.accumulated.error > self.tolerance.share)
        return next(beyond, None)

    @property
    def agree(self) -> bool:
        return self.first is None

    @property
    def are_identical(self) -> bool:
        return all(e.own.is_identical and e.accumulated.is_identical for e in self.operations)

    @property
    def verdict(self) -> str:
        if self.are_identical:
            verdict = "identical: every operator gives the same numbers on both sides"
        elif self.first is None:
            verdict = self._agreement()
        else:
            verdict = self._parting(self.first)
        return f"{verdict}{self._what_is_no_number()}"

    def _agreement(self) -> str:
        worst = max(self.operations, key=lambda each: each.own.error)
        return (
            f"agree: every operator is within {self.tolerance}; "
            f"the largest error is {worst.own.error:.1e}, {_at(worst.place, worst.own)}"
        )

    def _parting(self, first: Operation) -> str:
        point = first.own.point
        assert point is not None
        by = f"by {first.own.error:.1e}, " if isfinite(first.own.error) else ""
        return (
            f"part {_at(first.place, first.own)}: {by}{point.found:.6g} for {point.expected:.6g}; "
            f"beyond {self.tolerance}: {len(self.parting)} of {len(self.operations)} operators"
        )

    def _what_is_no_number(self) -> str:
        for operation in self.operations:
            expected, found = operation.accumulated.not_finite
            if expected or found:
                both = "both sides hold" if expected and found else "the second side holds"
                whose = both if found else "the first side holds"
                return f". NaN or infinity: {whose} them from {operation.place} on"
        return ""

    @property
    def drift(self) -> str:
        """What the differences come to at the end of the model, in one line."""
        logits = self.logits
        if not logits.are_numbers:
            return "left to themselves: logits that are no numbers"
        if self.are_identical:
            return "left to themselves: the same logits"
        last = self.operations[-1].accumulated
        return (
            f"left to themselves: logits differ by {last.relative:.1e} (at most "
            f"{last.max_error:.2g}), divergence {logits.divergence.mean():.1e} nats a token "
            f"(at most {logits.divergence.max():.1e}); {self._turns()}{self._where_it_is_beyond()}"
        )

    def _where_it_is_beyond(self) -> str:
        first = self.first_accumulated
        return "" if first is None else f"; first beyond the tolerance at {first.place}"

    def _turns(self) -> str:
        turns, tokens = self.logits.turns, len(self.tokens)
        if not turns:
            return "the same likeliest token" + (" everywhere" if tokens > 1 else "")
        return f"{len(turns)} of {tokens} likeliest tokens differ, first {_turn(turns[0])}"

    def as_json(self) -> dict[str, Any]:
        """For machines. Where an error has no finite size, it is null."""
        return {
            "sides": list(self.sides),
            "tokens": list(self.tokens),
            "detail": self.is_detailed,
            "bypassed": [list(words) for words in self.bypassed],
            "tolerance": self.tolerance.share,
            "tolerance_source": self.tolerance.source,
            "agree": self.agree,
            "identical": self.are_identical,
            "verdict": self.verdict,
            "first": _index(self.operations, self.first),
            "first_accumulated": _index(self.operations, self.first_accumulated),
            "layers": [section.as_json() for section in self.sections],
            "operators": [operation.as_json() for operation in self.operations],
            "logits": self.logits.as_json(),
        }

    def page(self) -> str:
        """HTML with everything in it."""
        from .report import page

        return page(self)

    def _repr_html_(self) -> str:
        from .report import notebook

        return notebook(self)

    def __str__(self) -> str:
        from .report import table

        return table(self)


def _at(place: Place, figures: Figures) -> str:
    point = figures.point
    assert point is not None
    return f"at {place}, token {point.token}, column {point.column}"


def _turn(turn: Turn) -> str:
    return (
        f"behind token {turn.position}: {turn.found} for {turn.expected}, "
        f"which led by {turn.margin:.2g}"
    )


def _index(operations: tuple[Operation, ...], one: Operation | None) -> int | None:
    """Its place in the list `operators`."""
    return None if one is None else operations.index(one)


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None
