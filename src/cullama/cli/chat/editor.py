"""The line editor of a chat: lasting history, input of several lines, completion of commands.

Built on prompt_toolkit. It completes the commands' names and arguments; it does not run them.
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
from prompt_toolkit.filters import has_completions
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from ...files.cache_folder import expand_home, home_folder

PROMPT, CONTINUATION = "> ", ". "


class Completions(Protocol):
    """What the editor uses of the commands."""

    def names(self) -> Iterable[tuple[str, str]]:
        """Return each command and its summary."""

    def arguments(self, name: str) -> Iterable[str] | None:
        """Return what may follow a command; None stands for a path."""


class Editor:
    """Reads one message or command at a time; `status` gives the line below."""

    def __init__(self, commands: Completions, status: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Completer(commands),
            complete_while_typing=True,
            multiline=True,
            prompt_continuation=lambda width, line, is_wrapped: "" if is_wrapped else CONTINUATION,
            key_bindings=_keys(),
            bottom_toolbar=status,
            enable_suspend=True,  # Ctrl-Z
            style=Style.from_dict({"bottom-toolbar": "noreverse ansibrightblack"}),
        )

    def read(self, draft: str = "") -> str:
        """Return what the user sends; `draft` is in the line at first.

        Raises:
            EOFError: for Ctrl-D.
            KeyboardInterrupt: for Ctrl-C.
        """
        return self._session.prompt(PROMPT, default=draft)


def _keys() -> KeyBindings:
    """Bind Tab to complete, Enter to send, Alt-Enter or a backslash before Enter to begin a line.

    A completion that Tab has chosen stands in the line already, and is sent with it.
    """
    keys = KeyBindings()

    @keys.add("tab", filter=~has_completions)
    def complete(event: KeyPressEvent) -> None:
        # At once, so that Enter behind it sends what it has completed: the menu comes later.
        buffer, asked = event.current_buffer, CompleteEvent(completion_requested=True)
        found = list(buffer.completer.get_completions(buffer.document, asked))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        else:
            buffer.start_completion(insert_common_part=True)

    @keys.add("enter")
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
    """Completes a command's name, then its argument; nothing in messages."""

    def __init__(self, commands: Completions) -> None:
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
    """Open the history file, readable by its owner only; in memory where that fails."""
    path = history_file()
    if path is None:  # the user has no home folder
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        click.secho(
            f"no history is kept: {path}: {error.strerror or error}; "
            "XDG_STATE_HOME can name another folder",
            dim=True,
        )
        return InMemoryHistory()
    return FileHistory(path)


def history_file() -> Path | None:
    """Return $XDG_STATE_HOME/cullama/chat_history, where unset under ~/.local/state, if any."""
    if chosen := os.environ.get("XDG_STATE_HOME"):
        folder = expand_home(chosen, "XDG_STATE_HOME")
    elif home := home_folder():
        folder = home / ".local" / "state"
    else:
        return None
    return folder / "cullama" / "chat_history"
