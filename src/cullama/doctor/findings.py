"""The results of an examination: facts, and problems with their remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A fault that keeps cullama from working correctly."""

    what: str
    found: str
    expected: str
    remedy: str


@dataclass(frozen=True)
class Fact:
    """One line about this machine. A `remedy` without a problem is advice."""

    name: str
    found: str
    details: dict[str, Any] = field(default_factory=dict)  # the same, for `--json`
    problem: Problem | None = None
    remedy: str = ""


def failing(name: str, found: str, expected: str, remedy: str, /, **details: Any) -> Fact:
    """Return a fact that is a problem."""
    return Fact(name, found, details, Problem(name, found, expected, remedy), remedy)
