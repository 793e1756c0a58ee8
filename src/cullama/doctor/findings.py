"""What an examination finds: facts, and problems, each with its remedy. It knows no machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and keeps cullama from working as it should."""

    what: str
    found: str
    expected: str
    remedy: str


@dataclass(frozen=True)
class Fact:
    """One line about this machine. A `remedy` without a problem is advice: nothing is wrong."""

    name: str
    found: str
    details: dict[str, Any] = field(default_factory=dict)  # the same, for machines
    problem: Problem | None = None
    remedy: str = ""


def failing(name: str, found: str, expected: str, remedy: str, /, **details: Any) -> Fact:
    """A fact that is a problem."""
    return Fact(name, found, details, Problem(name, found, expected, remedy), remedy)
