"""The line in which a user types: history that lasts, several lines, completion of commands.

The work is prompt_toolkit's. It knows the names that can be completed, not what they do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import completion_is_selected, has_completions
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

PROMPT, CONTINUATION = "> ", ". "


class Completes(Protocol):
    """What the editor asks of the commands."""

    def names(self) -> Iterable[tuple[str, str]]:
        """Each with its meaning."""

    def arguments(self, name: str) -> Iterable[str] | None:
        """What may follow a name; None is a path."""


class Editor:
    def __init__(self, commands: Completes, status: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Completer(commands),
            complete_while_typing=True,
            multiline=True,
            prompt_continuation=lambda width, line, is_wrapped: "" if is_wrapped else CONTINUATION,
            key_bindings=_keys(),
            bottom_toolbar=status,
            style=Style.from_dict({"bottom-toolbar": "noreverse ansibrightblack"}),
        )

    def read(self, draft: str = "") -> str:
        """What was typed.

        Raises:
            EOFError, KeyboardInterrupt: for Ctrl-D and Ctrl-C.
        """
        return self._session.prompt(PROMPT, default=draft)


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter, or a backslash before Enter, begins a new line."""
    keys = KeyBindings()

    @keys.add("enter", filter=~(has_completions & completion_is_selected))
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class _Completer(Completer):
    """A command's name, then what may follow it; nothing within ordinary text."""

    def __init__(self, commands: Completes) -> None:
        self._commands, self._paths = commands, PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        if not before.startswith("/") or "\n" in before:
            return
        name, space, argument = before.partition(" ")
        if not space:
            for known, meaning in self._commands.names():
                if known.startswith(name):
                    yield Completion(known, -len(name), display_meta=meaning)
            return
        choices = self._commands.arguments(name)
        if choices is None:
            yield from self._paths.get_completions(Document(argument), complete_event)
        else:
            for choice in choices:
                if choice.startswith(argument):
                    yield Completion(choice, -len(argument))


def _history() -> History:
    """Kept from one conversation to the next, readable by nobody else."""
    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        click.secho(
            f"no history is kept: {path}: {error.strerror or error}; "
            "XDG_STATE_HOME names another folder",
            dim=True,
        )
        return InMemoryHistory()
    return FileHistory(path)


def history_file() -> Path:
    """$XDG_STATE_HOME/cullama/chat_history, or below ~/.local/state."""
    folder = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(folder, "cullama", "chat_history")
