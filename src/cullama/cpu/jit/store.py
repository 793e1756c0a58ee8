"""Machine code kept on disk: read whole or not at all, and whoever waits for it is told why.

It knows no kernel: a name stands for everything that the code was made from.
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
        self._is_announced = self._is_refused = False

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What was kept under a name, or what `make` returns, which is kept then."""
        path = self._folder / f"{name}.kernel"
        code = _read(path)
        if code is None:
            self._announce()
            code = make()
            self._keep(path, code)
        return code

    def _announce(self) -> None:
        if not self._is_announced:
            self._is_announced = True
            logger.info("compiling kernels for this processor, to be kept in %s", self._folder)

    def _keep(self, path: Path, code: bytes) -> None:
        part = path.with_suffix(f".{os.urandom(8).hex()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(code).digest() + code)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        if not self._is_refused:
            self._is_refused = True
            logger.warning(
                "cannot keep compiled kernels in %s (%s); they are compiled again at each start",
                self._folder,
                error.strerror or error,
            )


def _read(path: Path) -> bytes | None:
    """Machine code that is whole: running half of it would end the process."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    digest, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == digest else None
