"""Judges the fields of a file by a list: obeyed, refused, warned about, harmless, or unknown.

The lists are in the files beside this one. Obeyed fields are read where they are used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ...errors import UnsupportedModelError
from ...files.regular_file import short_repr

# "refused" and "warned" hold for a value that is not null and not among the neutral ones.
Verdict: TypeAlias = Literal["obeyed", "refused", "warned", "harmless"]

MAX_NAMED = 8  # unknown fields in one message

_log = logging.getLogger("cullama")


@dataclass(frozen=True)
class Rule:
    """What becomes of some fields, and why."""

    verdict: Verdict
    why: str
    names: tuple[str, ...]
    neutral: tuple[Any, ...] = ()  # values with which a field changes nothing


def rule(verdict: Verdict, why: str, names: str, *neutral: Any) -> Rule:
    """Return a rule; `names` are separated by blanks."""
    return Rule(verdict, why, tuple(names.split()), neutral)


def check_settings(
    path: Path,
    values: Mapping[str, Any],
    rules: Sequence[Rule],
    more: Sequence[Rule] = (),
    prefix: str = "",
) -> None:
    """Refuse fields that change what cullama would compute, and warn of others that may.

    Args:
        path: the file, for messages.
        values: its fields; of those that are null nothing is said.
        rules: on the fields that this file should have.
        more: on fields that it may have, too.
        prefix: what messages put before a field's name.

    Raises:
        UnsupportedModelError: names the first field that is refused.
    """
    by_name = {name: each for each in (*more, *rules) for name in each.names}
    unknown = []
    for name, value in values.items():
        if value is None:
            continue
        found = by_name.get(name)
        if found is None:
            unknown.append(name)
        elif found.verdict in ("refused", "warned") and not _is_neutral(value, found.neutral):
            what = f"{path}: {prefix}{name} is {short_repr(value)}: {found.why}"
            if found.verdict == "refused":
                raise UnsupportedModelError(
                    f"{what}, which cullama does not run, expected {_expected(found.neutral)}"
                )
            _log.warning("%s, which cullama leaves out", what)
    if unknown:
        _log.warning("%s: passed over, not known to cullama: %s", path, _listed(prefix, unknown))


def without_prefix(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the fields whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value, or each entry of a list, is one of the neutral ones or empty."""
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(entries, list):
        return all(_is_neutral(entry, neutral) for entry in entries)
    return entries is None or entries in ({}, "") or entries in neutral


def _expected(neutral: tuple[Any, ...]) -> str:
    return " or ".join([*(repr(value) for value in neutral), "no such field"])


def _listed(prefix: str, names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"{prefix}{short_repr(name)[1:-1]}" for name in names[:MAX_NAMED]) + more
