"""Reads tasks from a file of JSON lines: one object a line, checked field by field.

A message says `FILE, line N: FIELD is FOUND, expected EXPECTED`. It does not know what a task asks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...errors import ModelFileError, UsageError
from ...files.regular_file import open_regular_file, short_repr

MAX_LINE_BYTES = 16 << 20
MAX_LINES = 1_000_000


@dataclass(frozen=True)
class Task:
    """One line of a file of tasks."""

    path: Path
    line: int
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, path: Path, number: int, line: bytes) -> Task:
        """Read a line. Raises UsageError: it is not a JSON object."""
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{path}, line {number}: not JSON ({reason}), expected a JSON object on each line"
            ) from None
        if not isinstance(value, dict):
            raise UsageError(f"{path}, line {number}: {short_repr(value)}, expected a JSON object")
        return cls(path, number, value)

    def fail(self, field: str, expected: str) -> NoReturn:
        """Raise UsageError: this field is not what was expected."""
        found = short_repr(self.values[field]) if field in self.values else "missing"
        raise UsageError(f"{self.path}, line {self.line}: {field} is {found}, expected {expected}")

    def text(self, field: str) -> str:
        value = self.values.get(field)
        if not isinstance(value, str) or not _is_text(value):
            self.fail(field, "a text")
        return value

    def texts(self, field: str) -> list[str]:
        """Return a list of at least two texts, none of them empty."""
        value = self.values.get(field)
        if not isinstance(value, list) or len(value) < 2 or not all(map(_is_filled, value)):
            self.fail(field, "a list of at least two texts")
        return value

    def index(self, field: str, count: int) -> int:
        """Return a number from 0 to count − 1, which may be written as a text."""
        value = self.values.get(field)
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if type(number) is not int or not 0 <= number < count:
            self.fail(field, f"the number of a choice, from 0 to {count - 1}")
        return number


@dataclass(frozen=True)
class Selection:
    """Which tasks of a file to take: by default, all."""

    limit: int | None = None  # the first so many
    sample: int | None = None  # so many at random, in the file's order
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.sample is not None:
            raise UsageError("there are a limit and a sample, expected one of them")

    def of(self, tasks: list[Task]) -> list[Task]:
        if self.sample is None or self.sample >= len(tasks):
            return tasks[: self.limit]
        chosen = random.Random(self.seed).sample(range(len(tasks)), self.sample)
        return [tasks[index] for index in sorted(chosen)]


ALL = Selection()


def read_tasks(path: Path, selection: Selection = ALL) -> list[Task]:
    """Read a file of tasks; blank lines are passed over.

    Raises:
        UsageError: no file that can be read, a line that is not a JSON object, or no line at all.
    """
    tasks = list(_parsed_lines(path))
    if not tasks:
        raise UsageError(f"{path}: the file is empty, expected a JSON object on each line")
    return selection.of(tasks)


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text. Raises UsageError."""
    try:
        with open_regular_file(path, "a text file") as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the file is not UTF-8 text: {error}") from None
    except ModelFileError as error:
        raise UsageError(str(error)) from None


def _parsed_lines(path: Path) -> Iterator[Task]:
    try:
        with open_regular_file(path, "a file of JSON lines") as file:
            for number in range(1, MAX_LINES + 1):
                raw = file.readline(MAX_LINE_BYTES + 1)
                if not raw:
                    return
                if len(raw) > MAX_LINE_BYTES:
                    raise UsageError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes, expected a "
                        "JSON object on each line"
                    )
                if line := raw.removeprefix(b"\xef\xbb\xbf").strip():
                    yield Task.parse(path, number, line)
            if file.read(1):
                raise UsageError(f"{path}: more than {MAX_LINES:,} lines, expected at most that")
    except ModelFileError as error:
        raise UsageError(str(error)) from None


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be encoded: JSON may spell halves of surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_filled(value: Any) -> bool:
    return _is_text(value) and bool(value.strip())
