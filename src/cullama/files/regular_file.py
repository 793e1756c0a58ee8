"""Files from strangers, opened with care: a regular file or an error of ours.

It knows the ways in which a path can be no file that one may read: a named pipe (which would wait
for a writer), a device (which never ends), a folder, a loop of links; and how to show a piece of
such a file in a message. It knows no format.
"""

from __future__ import annotations

import reprlib
import stat
from collections.abc import Iterator
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
    """A regular file open for reading; `kind` is what was hoped for: "a GGUF file".

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
    """The next `count` bytes of a tensor's data."""
    raw: NDArray[np.uint8] = np.fromfile(file, np.uint8, count)
    if raw.size < count:
        raise ModelFileError(
            f"{path}: tensor {short_repr(name)}: data is cut short, expected {count - raw.size:,} "
            "bytes more; the file changed since its header was read"
        )
    return raw


def short_repr(value: object) -> str:
    """For messages: quoted, control characters escaped, neither a page long nor deep."""
    text = _representation.repr(value)
    return text if len(text) <= MAX_REPR_LENGTH else text[: MAX_REPR_LENGTH - 3] + "..."
