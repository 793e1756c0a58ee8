"""Stores machine code on disk, checks it when it is read, and logs why a start takes longer.

It does not look into kernels: a name stands for everything that the code was made from.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("cullama")


class CodeStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_announced = self._has_warned = False

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what is stored under a name, or else what `make` returns, and store that."""
        path = self._folder / f"{name}.kernel"
        code = _read(path)
        if code is None:
            if not self._has_announced:
                self._has_announced = True
                logger.info("compiling kernels for this processor, to be kept in %s", self._folder)
            code = make()
            self._write(path, code)
        return code

    def _write(self, path: Path, code: bytes) -> None:
        part = path.with_suffix(f".{os.urandom(8).hex()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(code).digest() + code)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "cannot keep compiled kernels in %s (%s); "
                    "they are compiled again at each start",
                    self._folder,
                    error.strerror or error,
                )


def _read(path: Path) -> bytes | None:
    """Return machine code if all of it is there: running a part of it would crash the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None
