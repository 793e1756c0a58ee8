"""Saves the conversation at the terminal after each turn, and finds those that were saved.

The files are the archive's (`cullama.chat.archive`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...chat.archive import Archive, KeptConversation, archive_folder
from ...chat.messages import content_text
from ...chat.saved import read
from ...errors import UsageError
from ..terminal import fitted, sanitized

if TYPE_CHECKING:
    from ...chat.session import Session


class Keeper:
    """Holds the file of one conversation at a time.

    Attributes:
        archive: where conversations are; None where the user has no folder for them.
    """

    def __init__(self, archive: Archive | None, is_saving: bool) -> None:
        self.archive, self._is_saving = archive, is_saving and archive is not None
        self.begin()

    def begin(self, kept: KeptConversation | None = None) -> None:
        """Go on with another conversation: with one of the archive's, or a new one."""
        self._path = None if kept is None else kept.path
        self._saved_messages: list[dict[str, Any]] = [] if kept is None else kept.saved.messages

    def save(self, session: Session, model: Any) -> None:
        """Save what has changed; `model` is what the model was loaded by.

        Raises:
            UsageError: that is not possible; it will not be tried again.
        """
        if not self._is_saving or session.messages == self._saved_messages:
            return
        assert self.archive is not None
        try:
            if session.turns:
                source = _lasting_name(model)
                self._path = self.archive.save(session, self._path, source)
            elif self._path is not None:  # every turn was taken back
                self._path.unlink(missing_ok=True)
                self._path = None
        except (UsageError, OSError) as error:
            self._is_saving = False
            message = f"{error}; this conversation is no longer saved by itself"
            raise UsageError(message) from None
        self._saved_messages = [*session.messages]


def open_archive() -> Archive | None:
    folder = archive_folder()
    return None if folder is None else Archive(folder)


def last_conversation(archive: Archive | None) -> KeptConversation:
    """Return what `--continue` goes on with. Raises UsageError: there is nothing."""
    kept = None if archive is None else archive.last()
    if kept is None:
        raise no_conversations(archive)
    return kept


def listed_conversations(archive: Archive | None) -> list[KeptConversation]:
    """Return what there is to go on with, the newest first. Raises UsageError: there is nothing."""
    conversations = [] if archive is None else archive.conversations()
    if not conversations:
        raise no_conversations(archive)
    return conversations


def numbered_conversation(
    conversations: Sequence[KeptConversation], number: str
) -> KeptConversation:
    """Return the conversation with a number of a list, as its file is now.

    Raises:
        UsageError: there is no such number, or the file cannot be read any more.
    """
    if not number.isdecimal() or not 1 <= int(number[:9]) <= len(conversations):
        raise UsageError(f"{number!r:.40} is no number of the list, 1 to {len(conversations)}")
    chosen = conversations[int(number) - 1]
    return replace(chosen, saved=read(chosen.path))


def no_conversations(archive: Archive | None) -> UsageError:
    if archive is None:
        return UsageError("conversations are not kept where HOME and XDG_DATA_HOME are not set")
    return UsageError(f"no conversation has been saved yet in {archive.folder}")


def print_list(conversations: Sequence[KeptConversation]) -> None:
    """Print a line for each: its number, when it was changed, its turns, its first question."""
    columns = shutil.get_terminal_size().columns
    for number, kept in enumerate(conversations, 1):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.changed))
        click.echo(fitted(f"{number:>4}  {when}  {_contents(kept)}", columns - 1))


def _contents(kept: KeptConversation) -> str:
    questions = [
        content_text(message)
        for message in kept.saved.messages
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    first = " ".join(sanitized(questions[0]).split()) if questions else ""
    return f"{len(questions):>3} {'turn ' if len(questions) == 1 else 'turns'}  {first}"


def _lasting_name(model: Any) -> str | None:
    """Return a name by which a later process finds the model from any folder."""
    if model is None:
        return None
    path = Path(os.path.expanduser(model))
    return str(path.absolute() if path.exists() else model)
