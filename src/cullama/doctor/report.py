"""Findings as text, one after the other, and as one document for machines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from .findings import Fact, Problem
from .selftest import OperatorResult, SelfTest

NAME_WIDTH = 12
TABLE_WIDTH = 200  # more than any row takes: nothing is cut off


@dataclass(frozen=True)
class DoctorReport:
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
            "cullama": metadata.version("cullama"),
            "healthy": self.is_healthy,
            "problems": [asdict(problem) for problem in self.problems],
            "facts": [_fact_as_json(fact) for fact in self.facts],
            "self_tests": [_test_as_json(test) for test in self.self_tests],
        }


def _fact_as_json(fact: Fact) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(fact).items() if name != "problem"}
    return {**plain, "is_problem": fact.problem is not None}


def _test_as_json(test: SelfTest) -> dict[str, Any]:
    return {
        "backend": test.backend,
        "dtype": test.dtype,
        "description": test.description,
        "sizes": test.sizes,
        "copy_bytes_per_second": test.copy_rate or None,
        "failure": test.failure or None,
        "rows": [_row_as_json(row) for row in test.rows],
    }


def _row_as_json(row: OperatorResult) -> dict[str, Any]:
    """JSON knows no infinities."""
    error = row.error if math.isfinite(row.error) else None
    failure = row.failure or None
    return {**asdict(row), "error": error, "failure": failure, "is_right": row.is_right}


# --- for people ----------------------------------------------------------------------------------


def as_text(finding: Fact | SelfTest) -> str:
    return _fact_as_text(finding) if isinstance(finding, Fact) else _table(finding)


def _fact_as_text(fact: Fact) -> str:
    """What is wrong has a cross before it; what to do is on the line below."""
    mark = "✗" if fact.problem else " "
    lines = [f"{mark} {fact.name:<{NAME_WIDTH}} {fact.found}"]
    indent = " " * (NAME_WIDTH + 3)
    if fact.problem:
        lines.append(f"{indent}expected {fact.problem.expected}")
    if fact.remedy:
        lines.append(f"{indent}→ {fact.remedy}")
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
    return [
        "✓" if row.is_right else "✗",
        row.operator,
        row.shape,
        _error(row),
        f"{row.tolerance:.0e}" if row.tolerance else "none",
        f"{(row.seconds or 0) * 1e6:,.1f}",
        _rate(row),
        "" if row.share_of_copy is None else f"{row.share_of_copy:.0%}",
    ]


def _error(row: OperatorResult) -> str:
    if row.tolerance == 0:
        return f"{row.error:.0%}" if row.error else "none"
    return f"{row.error:.1e}"


def _rate(row: OperatorResult) -> str:
    if row.operations_per_second is not None:
        return f"{row.operations_per_second / 1e9:,.1f} GFLOP/s"
    return f"{(row.bytes_per_second or 0) / 1e9:,.1f} GB/s"


def verdict(report: DoctorReport) -> str:
    """Problems of facts have been shown where they were found; those of self-tests come here."""
    lines = [_problem_as_text(each) for test in report.self_tests for each in test.problems]
    count = len(report.problems)
    lines.append(f"{count} problem{'s' * (count > 1)}" if count else "nothing is wrong")
    return "\n".join(lines)


def _problem_as_text(problem: Problem) -> str:
    return f"✗ {problem.what}: {problem.found}\n  expected {problem.expected}\n  → {problem.remedy}"
