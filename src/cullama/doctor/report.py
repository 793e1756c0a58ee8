"""Formats findings: each as text, and all as one JSON document."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..version import __version__
from .findings import Fact, Problem
from .selftest import OperatorResult, SelfTest

NAME_WIDTH = 12
TABLE_WIDTH = 200  # wider than any row, so that nothing is cut off


@dataclass(frozen=True)
class DoctorReport:
    """All findings of an examination."""

    facts: tuple[Fact, ...]
    self_tests: tuple[SelfTest, ...]

    @classmethod
    def of(cls, findings: Iterable[Fact | SelfTest]) -> DoctorReport:
        everything = list(findings)
        facts = tuple(each for each in everything if isinstance(each, Fact))
        return cls(facts, tuple(each for each in everything if isinstance(each, SelfTest)))

    @property
    def problems(self) -> list[Problem]:
        of_facts = [fact.problem for fact in self.facts if fact.problem is not None]
        return of_facts + [problem for test in self.self_tests for problem in test.problems]

    @property
    def is_healthy(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "cullama": __version__,
            "healthy": self.is_healthy,
            "problems": [asdict(problem) for problem in self.problems],
            "facts": [
                {
                    "name": fact.name,
                    "found": fact.found,
                    "details": fact.details,
                    "remedy": fact.remedy,
                    "is_problem": fact.problem is not None,
                }
                for fact in self.facts
            ],
            "self_tests": [_test_as_json(test) for test in self.self_tests],
        }


def _test_as_json(test: SelfTest) -> dict[str, Any]:
    """Return a self-test for JSON, which has no infinities or NaN."""
    return {
        "backend": test.backend,
        "dtype": test.dtype,
        "description": test.description,
        "sizes": test.sizes,
        "copy_bytes_per_second": test.copy_rate or None,
        "failure": test.failure or None,
        "rows": [
            {
                **asdict(row),
                "error": row.error if math.isfinite(row.error) else None,
                "failure": row.failure or None,
                "is_right": row.is_right,
            }
            for row in test.rows
        ],
    }


# --- text ----------------------------------------------------------------------------------------


def as_text(finding: Fact | SelfTest) -> str:
    """Return a self-test as a table, a fact as a line.

    A problem is marked with a cross; what was expected and the remedy are on lines below.
    """
    if isinstance(finding, SelfTest):
        return _table(finding)
    mark = "✗" if finding.problem else " "
    lines = [f"{mark} {finding.name:<{NAME_WIDTH}} {finding.found}"]
    indent = " " * (NAME_WIDTH + 3)
    if finding.problem:
        lines.append(f"{indent}expected {finding.problem.expected}")
    if finding.remedy:
        lines.append(f"{indent}→ {finding.remedy}")
    return "\n".join(lines)


def _table(test: SelfTest) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{test.description} · {test.sizes} sizes · copies {test.copy_rate / 1e9:.1f} GB/s"
    rows = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("", "operator", "shape"):
        rows.add_column(name, no_wrap=True)
    for name in ("error", "allowed", "µs", "rate", "of a copy's"):
        rows.add_column(name, justify="right", no_wrap=True)
    for row in test.rows:
        rows.add_row(*_cells(row))
    console = Console(width=TABLE_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(rows if test.rows else title)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _cells(row: OperatorResult) -> list[str]:
    if row.failure:
        return ["✗", row.operator, "failed", *[""] * 5]
    error = f"{row.error:.1e}"
    if row.tolerance == 0:  # an exact operator: the share of wrong elements
        error = f"{row.error:.0%}" if row.error else "none"
    rate = f"{(row.bytes_per_second or 0) / 1e9:,.1f} GB/s"
    if row.operations_per_second is not None:
        rate = f"{row.operations_per_second / 1e9:,.1f} GFLOP/s"
    return [
        "✓" if row.is_right else "✗",
        row.operator,
        row.shape,
        error,
        f"{row.tolerance:.0e}" if row.tolerance else "none",
        f"{(row.seconds or 0) * 1e6:,.1f}",
        rate,
        "" if row.share_of_copy is None else f"{row.share_of_copy:.0%}",
    ]


def verdict(report: DoctorReport) -> str:
    """Return the problems of the self-tests, and the number of all; facts have shown their own."""
    lines = [
        f"✗ {problem.what}: {problem.found}\n  expected {problem.expected}\n  → {problem.remedy}"
        for test in report.self_tests
        for problem in test.problems
    ]
    count = len(report.problems)
    lines.append(f"{count} problem{'s' if count > 1 else ''}" if count else "nothing is wrong")
    return "\n".join(lines)
