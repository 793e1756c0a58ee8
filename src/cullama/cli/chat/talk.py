"""The conversation at the terminal: read a line, carry out a command or show an answer, go on.

It knows the session and what is printed round an answer; commands are in `commands`, the line
editor in `editor`.
"""

from __future__ import annotations

from typing import Any

import click

from ...chat.session import Reply, Session
from ...checkpoint.opening import open_checkpoint
from ...errors import CullamaError
from ...hub import resolve_model
from ...text.completion import Completion
from ..loading import load
from ..progress import ProgressBar
from ..terminal import wrapped
from .commands import Commands, Leave
from .editor import Editor
from .screen import stats_line, write_answer


class Talk:
    """One conversation after another, until somebody leaves."""

    def __init__(
        self, session: Session, options: dict[str, Any], markdown: bool, stats: bool
    ) -> None:
        self.session, self.options = session, options
        self._markdown, self._stats = markdown, stats
        self.draft = ""  # stands in the line when it is next read
        self._used = 0  # of the context, in tokens
        self._commands = Commands(self)
        self._editor = Editor(self._commands, self._status)

    def run(self) -> int:
        session = self.session
        session.llm.chat_format  # noqa: B018  (says now if texts are only continued)
        self.note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        while True:
            try:
                draft, self.draft = self.draft, ""
                self._take(self._editor.read(draft))
            except (EOFError, Leave):
                return 0
            except KeyboardInterrupt:
                self.note("Ctrl-D or /quit leaves")
            except CullamaError as error:
                self.complain(str(error))

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        try:
            if line.startswith("/"):
                self._commands.carry_out(line)
            else:
                self.show(self.session.stream(line[line.startswith(" /") :]))
        finally:
            self._used = self.session.context_used

    def show(self, reply: Reply) -> None:
        """Write an answer as it comes; Ctrl-C ends it where it is."""
        if left_out := self.session.left_out:
            self.note(
                f"the context is full: the model no longer reads the oldest {left_out} messages "
                "(as many as leave a quarter of it free; /reset begins anew)"
            )
        self._tell_of(write_answer(reply, self._markdown))

    def _tell_of(self, completion: Completion) -> None:
        if completion.finish_reason == "cancelled":
            self.note(
                "stopped; /retry asks again"
                if completion.text
                else "stopped before the first word: the question was taken back"
            )
        if completion.finish_reason == "length":
            self.note(
                f"cut after {len(completion.token_ids)} tokens; "
                "/set max_tokens 4096 allows longer answers, 'go on' continues"
            )
        if self._stats:
            self.note(stats_line(completion))

    def use(self, session: Session) -> None:
        """Go on with another conversation."""
        self.session = session

    def change_model(self, name: str) -> None:
        """The same conversation with another model, for which this one makes room."""
        with ProgressBar(f"fetching {name}", in_bytes=True) as download:
            path = resolve_model(name, download)
        open_checkpoint(path)  # what cannot be opened leaves everything as it is
        former = {**self.options}
        if former["chat_template"] is not None:
            self.note(f"the template {former['chat_template']} was for the model before")
        self.options |= {"model": path, "chat_template": None}
        try:
            self._load()
        except CullamaError:
            self.options = former
            self._load()
            raise

    def _load(self) -> None:
        """Never two models in memory at once."""
        session = self.session
        session.llm.close()
        llm = load(**self.options)
        self.use(llm.session(None, session.params, session.messages))

    def _status(self) -> str:
        """Below the line: how full the context is, and what writes."""
        longest = self.session.llm.longest_text
        filled = round(10 * min(1.0, self._used / longest))
        bar = "█" * filled + "░" * (10 - filled)
        return f" context {bar} {self._used:,} of {longest:,} tokens · {self.session.llm.name}"

    @staticmethod
    def note(text: str) -> None:
        click.secho(wrapped(text), dim=True)

    @staticmethod
    def complain(text: str) -> None:
        click.secho(wrapped(text), fg="red")
