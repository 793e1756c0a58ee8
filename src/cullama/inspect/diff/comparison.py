"""The result of a comparison: where two sides differ, in figures, in words and as JSON.

It holds no tensors and computes no errors; tables and pages are drawn in `report.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import isfinite
from typing import Any, NamedTuple

from .logits import LogitFigures
from .report import notebook, page, table
from .section import Operation, Section


class Tolerance(NamedTuple):
    share: float  # the most that `Figures.error` may be
    source: str  # the storage type it belongs to, or "as asked for"

    def __str__(self) -> str:
        return f"{self.share:.1e} ({self.source})"


@dataclass(frozen=True)
class Comparison:
    """The second side compared with the first, for one prompt.

    `print` it, leave it at the end of a notebook's cell, or take `as_json()` or `page()`.
    """

    sides: tuple[str, str]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]  # of each token
    tolerance: Tolerance
    operations: tuple[Operation, ...]  # in the order in which they ran
    logits: LogitFigures
    is_detailed: bool = False
    bypassed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # each backend's composites

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
        """The first operator whose own error is beyond the tolerance."""
        return next(iter(self.parting), None)

    @property
    def first_accumulated(self) -> Operation | None:
        """The first operator whose accumulated error is beyond the tolerance."""
        beyond = (e for e in self.operations if e.accumulated.error > self.tolerance.share)
        return next(beyond, None)

    @property
    def agree(self) -> bool:
        """Whether every operator's own error is within the tolerance."""
        return self.first is None

    @property
    def are_identical(self) -> bool:
        return all(e.own.is_identical and e.accumulated.is_identical for e in self.operations)

    @property
    def verdict(self) -> str:
        """One line: whether the sides agree, and if not, the first place where they differ."""
        first = self.first
        if self.are_identical:
            verdict = "identical: every operator gives the same numbers on both sides"
        elif first is None:
            worst = max(self.operations, key=lambda each: each.own.error)
            verdict = (
                f"agree: every operator is within {self.tolerance}; "
                f"the largest error is {worst.own.error:.1e}, {_at(worst)}"
            )
        else:
            point = first.own.point
            assert point is not None
            error = f"error {first.own.error:.1e}, " if isfinite(first.own.error) else ""
            verdict = (
                f"differ {_at(first)}: {error}found {point.found:.6g}, "
                f"expected {point.expected:.6g}; beyond {self.tolerance}: "
                f"{len(self.parting)} of {len(self.operations)} operators"
            )
        return f"{verdict}{self._not_finite()}"

    def _not_finite(self) -> str:
        for operation in self.operations:
            expected, found = operation.accumulated.not_finite
            if expected or found:
                both = "both sides hold" if expected and found else "the second side holds"
                whose = both if found else "the first side holds"
                return f". NaN or infinity: {whose} them from {operation.place} on"
        return ""

    @property
    def drift(self) -> str:
        """One line: what the accumulated errors do to the logits."""
        logits = self.logits
        if not logits.are_numbers:
            return "end to end: logits that are NaN or infinite"
        if self.are_identical:
            return "end to end: the same logits"
        last = self.operations[-1].accumulated
        first = self.first_accumulated
        beyond = "" if first is None else f"; first beyond the tolerance at {first.place}"
        tokens = "the same likeliest token" + (" everywhere" if len(self.tokens) > 1 else "")
        if changes := logits.turns:
            one = changes[0]
            tokens = (
                f"{len(changes)} of {len(self.tokens)} likeliest tokens differ, first after token "
                f"{one.position}: {one.found} for {one.expected}, which led by {one.margin:.2g}"
            )
        return (
            f"end to end: logits differ by {last.relative:.1e} (at most {last.max_error:.2g}), "
            f"divergence {logits.divergence.mean():.1e} nats a token "
            f"(at most {logits.divergence.max():.1e}); {tokens}{beyond}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON values; errors that are NaN or infinite are null."""
        return {
            "sides": list(self.sides),
            "tokens": list(self.tokens),
            "detail": self.is_detailed,
            "bypassed": [list(names) for names in self.bypassed],
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
        """Return an HTML page that loads nothing else."""
        return page(self)

    def _repr_html_(self) -> str:
        return notebook(self)

    def __str__(self) -> str:
        return table(self)


def _at(operation: Operation) -> str:
    point = operation.own.point
    assert point is not None
    return f"at {operation.place}, token {point.token}, column {point.column}"


def _index(operations: tuple[Operation, ...], one: Operation | None) -> int | None:
    """Return an operation's index in the JSON's list `operators`."""
    return None if one is None else operations.index(one)
