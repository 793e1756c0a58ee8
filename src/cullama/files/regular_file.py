"""Opens files that strangers made: a regular file, or an error of ours.

A path may name a named pipe (opening it waits for a writer), a device (which never ends), a folder
or a loop of links; each is refused. It also shortens what such a file holds for messages. It parses
no format.
"""

from __future__ import annotations

import reprlib
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError

MAX_REPR_LENGTH = 80

_representation = reprlib.Repr()
_representation.maxstring = _representation.maxother = _representation.maxlong = MAX_REPR_LENGTH


@contextmanager
def open_regular_file(path: Path, kind: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading; `kind` is what messages expect: "a GGUF file".

    Raises:
        ModelFileError: it is no regular file, or the system refuses to open or read it.
    """
    try:
        # Looked at before it is opened, because opening a named pipe waits for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path}: not a regular file, expected {kind}")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        reason = error.strerror or error
        raise ModelFileError(f"{path}: cannot be read: {reason}, expected {kind}") from None


def read_bytes(file: BinaryIO, path: Path, name: str, count: int) -> NDArray[np.uint8]:
    """Read the next `count` bytes of the tensor `name`.

    Raises:
        ModelFileError: the file ends before.
    """
    raw: NDArray[np.uint8] = np.fromfile(file, np.uint8, count)
    if raw.size < count:
        raise ModelFileError(
            f"{path}: tensor {short_repr(name)}: data is cut short, expected {count - raw.size:,} "
            "bytes more; the file changed since its header was read"
        )
    return raw


def short_repr(value: object) -> str:
    """`repr` for messages: at most 80 characters, not deep, control characters escaped."""
    text = _representation.repr(value)
    return text if len(text) <= MAX_REPR_LENGTH else text[: MAX_REPR_LENGTH - 3] + "..."


def first_names(names: Collection[str]) -> str:
    """The first five of some file names, sorted, for messages; "nothing" for none."""
    if not names:
        return "nothing"
    first = sorted(name if name.isprintable() else repr(name) for name in names)
    return ", ".join(first[:5]) + (", …" if len(first) > 5 else "")
