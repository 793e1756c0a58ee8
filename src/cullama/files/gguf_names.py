"""What the names of GGUF files tell: which hold weights, and which are parts of one model.

llama.cpp splits a model into NAME-00001-of-00003.gguf and so on. It works on names alone, paths
included; no file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """The name of a part of a split model."""

    stem: str  # "folder/NAME"
    number: int  # from 1
    count: int

    @classmethod
    def parsed(cls, file: str) -> Part | None:
        """Parse a file's name; return None if it is not that of a part."""
        found = _PART.fullmatch(file)
        return found and cls(found["stem"], int(found["number"]), int(found["count"]))

    def file(self, number: int) -> str:
        """Return the name of a part of the same model."""
        return f"{self.stem}-{number:05}-of-{self.count:05}.gguf"


def is_weights(file: str) -> bool:
    """Return whether it is a GGUF file of weights: not a projector, nor an importance matrix."""
    is_auxiliary = file.rpartition("/")[2].startswith(("mmproj", "imatrix"))
    return file.endswith(".gguf") and not is_auxiliary


def first_part(file: str) -> str:
    """Return the name by which a model goes: its first part's, or its only file's."""
    part = Part.parsed(file)
    return part.file(1) if part else file


def parts_among(file: str, files: Iterable[str]) -> list[str]:
    """Return those of `files` that are parts of the same model as `file`, itself included."""
    return sorted(other for other in files if first_part(other) == first_part(file))


def missing_parts(file: str, files: Iterable[str]) -> list[str]:
    """Return the names of a model's parts that are not in `files`; at most the first hundred."""
    part, there = Part.parsed(file), set(files)
    names = [part.file(number) for number in range(1, part.count + 1)] if part else [file]
    return [name for name in names if name not in there][:100]
