"""Keeps conversations in the user's data folder, one file each, and lists them.

Their number and their bytes are bounded: the oldest are removed. The files are readable by their
owner alone, and have the form that saved.py describes. It decides nothing about when to save.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from ..errors import UsageError
from ..files.cache_folder import expand_home
from .saved import SavedConversation, read, save
from .session import Session

MAX_CONVERSATIONS = 200
MAX_BYTES = 64 << 20


def archive_folder() -> Path | None:
    """Return $XDG_DATA_HOME/cullama/conversations, where unset under ~/.local/share.

    None where neither that variable nor HOME is set: then nothing is kept.
    """
    if shared := os.environ.get("XDG_DATA_HOME"):
        return expand_home(shared, "XDG_DATA_HOME") / "cullama" / "conversations"
    if home := os.environ.get("HOME"):
        return Path(home, ".local", "share", "cullama", "conversations")
    return None


@dataclass(frozen=True)
class KeptConversation:
    """One of the archive's files, and what is in it."""

    path: Path
    changed: float  # seconds since the epoch
    saved: SavedConversation


class Archive:
    """The conversations in a folder, which is made when the first is saved."""

    def __init__(
        self,
        folder: Path,
        max_conversations: int = MAX_CONVERSATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self._max_conversations, self._max_bytes = max_conversations, max_bytes

    def conversations(self) -> list[KeptConversation]:
        """Return the conversations, the last one first; files that are none are passed over."""
        return list(self._read(self._files()))

    def last(self) -> KeptConversation | None:
        return next(self._read(self._files()), None)

    def save(self, session: Session, path: Path | None, loaded_from: str | None) -> Path:
        """Write a conversation, into the file it had or a new one; return the file.

        Raises:
            UsageError: the file cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make {self.folder}: {error.strerror or error}") from None
        if path is None:
            stamp = time.strftime("%Y-%m-%d_%H.%M.%S")
            path = self.folder / f"{stamp}_{secrets.token_hex(4)}.json"
        save(session, path, loaded_from)
        self._prune(path)
        return path

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Return the files, the newest first."""
        found = []
        with suppress(OSError):  # there is no folder, or none that may be read
            for path in self.folder.glob("*.json"):
                with suppress(OSError):  # another process has removed it
                    status = path.stat()
                    if S_ISREG(status.st_mode):
                        found.append((path, status))
        return sorted(found, key=lambda each: (each[1].st_mtime_ns, each[0].name), reverse=True)

    def _read(self, files: list[tuple[Path, os.stat_result]]) -> Iterator[KeptConversation]:
        for path, status in files:
            if status.st_size > self._max_bytes:
                continue
            try:
                yield KeptConversation(path, status.st_mtime, read(path))
            except UsageError:
                continue

    def _prune(self, newest: Path) -> None:
        size = 0
        for index, (path, status) in enumerate(self._files()):
            size += status.st_size
            if path != newest and (index >= self._max_conversations or size > self._max_bytes):
                with suppress(OSError):  # the folder's owner is another; what is new is saved
                    path.unlink(missing_ok=True)
