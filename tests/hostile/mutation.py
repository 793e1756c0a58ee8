"""A damaged file, its damaged field, and whether the refusal names both.

Errors have the form `FILE: tensor 'NAME': FIELD is FOUND, expected EXPECTED`. Formats are not known
here: each has a module that makes `Mutant`s from a seed.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cullama.errors import ModelFileError, UnsupportedModelError

# How messages say what they found: "is 7", "has shape [2]", "holds …", "given twice", …
FORM = re.compile(
    r"^(?:[^:]*: )*.*\b(?:is|has|holds|missing|unexpected|beginning|names|changed)\b.*\bexpected\b"
)
MAX_MESSAGE_LENGTH = 6000
HANG = 1.0  # seconds of the processor: others may use the machine, too


@dataclass(frozen=True)
class Mutant:
    what: str  # was done to a valid file, for people
    content: bytes
    words: tuple[str, ...] = ()  # one of them names the damaged field; empty: it cannot be known
    is_valid: bool = False  # by the format's description: it must be accepted
    is_broken: bool = False  # whatever the chance of its making: it must be refused


@dataclass
class Tally:
    """Outcomes of many mutants."""

    count: int = 0
    accepted: int = 0
    slowest: float = 0.0
    hangs: list[str] = field(default_factory=list)
    escapes: list[str] = field(default_factory=list)  # anything raised but our two errors
    unnamed: list[str] = field(default_factory=list)  # refusals that do not name file and field
    valid_refused: list[str] = field(default_factory=list)
    broken_accepted: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)  # accepted, and read otherwise elsewhere
    rules: Counter[str] = field(default_factory=Counter)  # why files are refused that others take
    unruled: list[str] = field(default_factory=list)  # the same, where no rule says so

    @property
    def refused(self) -> int:
        return self.count - self.accepted

    @property
    def complaints(self) -> list[str]:
        return [
            *self.hangs,
            *self.escapes,
            *self.unnamed,
            *self.valid_refused,
            *self.broken_accepted,
            *self.differing,
            *self.unruled,
        ]


def attack(
    mutants: Iterable[Mutant],
    path: Path,
    read: Callable[[Path], object],
    file: Path | None = None,
    agree: Callable[[Path, object, str], str] | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Write each mutant to `file` (by default `path`), read `path`, and note what came of it.

    `agree(path, found, refusal)` asks the reference library: it returns "" where both agree, the
    rule by which we refuse what it takes as "rule: …", and anything else as a complaint.
    """
    tally = tally or Tally()
    file = file or path
    for mutant in mutants:
        file.write_bytes(mutant.content)
        tally.count += 1
        found, refusal, seconds = _attempt(mutant, path, read, tally)
        tally.slowest = max(tally.slowest, seconds)
        if seconds > HANG:
            tally.hangs.append(f"{mutant.what}: {seconds:.2f} s")
        if not refusal and mutant.is_broken:
            tally.broken_accepted.append(mutant.what)
        if refusal and mutant.is_valid:
            tally.valid_refused.append(f"{mutant.what}: {refusal}")
        if refusal and not is_named(refusal, path, mutant.words):
            tally.unnamed.append(f"{mutant.what}, one of {mutant.words}: {refusal[:500]}")
        if agree is not None:
            _compare(agree(path, found, refusal), mutant, tally)
    return tally


def _attempt(
    mutant: Mutant, path: Path, read: Callable[[Path], object], tally: Tally
) -> tuple[object, str, float]:
    started = time.process_time()
    found: object = None
    refusal = ""
    try:
        found = read(path)
        tally.accepted += 1
    except (ModelFileError, UnsupportedModelError) as error:
        refusal = str(error)
    except BaseException as error:  # whatever else comes out is what we are looking for
        if isinstance(error, KeyboardInterrupt):
            raise
        tally.escapes.append(f"{mutant.what}: {type(error).__name__}: {error!s:.200}")
        refusal = ""
    return found, refusal, time.process_time() - started


def _compare(verdict: str, mutant: Mutant, tally: Tally) -> None:
    if verdict.startswith("rule: "):
        tally.rules[verdict.removeprefix("rule: ")] += 1
    elif verdict.startswith("no rule: "):
        tally.unruled.append(f"{mutant.what}: {verdict}")
    elif verdict:
        tally.differing.append(f"{mutant.what}: {verdict}")


def is_named(message: str, path: Path, words: tuple[str, ...]) -> bool:
    """Whether a refusal is one line that names the file, the field, what is there and should be."""
    folder = path if path.is_dir() else path.parent
    if not message.startswith(str(folder)) or len(message.splitlines()) != 1:
        return False
    if len(message) > MAX_MESSAGE_LENGTH or not message.isprintable():
        return False
    rest = message.removeprefix(str(folder))
    return bool(FORM.search(rest)) and (not words or any(word in rest for word in words))
