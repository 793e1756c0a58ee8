"""The chat loop at the terminal: reads a line, then runs a command or streams an answer.

Commands are in `commands.py`, the line editor in `editor.py`, drawing in `screen.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...checkpoint.opening import open_checkpoint
from ...errors import CullamaError
from ...hub import resolve_model
from ..loading import load_with_sampling
from ..progress import ProgressBar
from ..sampling import carried_over
from ..terminal import wrapped
from .commands import Commands, Leave
from .editor import Editor
from .screen import stats_line, write_answer

if TYPE_CHECKING:
    from ...chat.session import Reply, Session
    from ...llm import LLM
    from ..sampling import SamplingOptions


class ChatLoop:
    """Runs until the user leaves; commands may exchange the session and the model meanwhile.

    `options` are those that loaded `llm`, and load another one for /model.
    """

    def __init__(
        self,
        llm: LLM,
        session: Session,
        sampling: SamplingOptions,
        options: dict[str, Any],
        markdown: bool,
        stats: bool,
    ) -> None:
        self.llm, self.session, self.options = llm, session, options
        self._sampling = sampling
        self._markdown, self._stats = markdown, stats
        self.draft = ""  # what the next prompt starts with
        self._context_used = 0  # tokens
        self._commands = Commands(self)
        self._editor = Editor(self._commands, self._status_line)

    def run(self) -> int:
        _ = self.llm.chat_format  # warns now, not at the first question, where there is no template
        self.note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        while True:
            try:
                draft, self.draft = self.draft, ""
                self._handle(self._editor.read(draft))
            except (EOFError, Leave):
                return 0
            except KeyboardInterrupt:
                self.note("Ctrl-D or /quit leaves")
            except CullamaError as error:
                self.print_error(str(error))

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        try:
            if line.startswith("/"):
                self._commands.run(line)
            else:
                # A space in front makes "/etc" a message.
                self.show(self.session.stream(line[line.startswith(" /") :]))
        finally:
            self._context_used = self.session.context_used

    def show(self, reply: Reply) -> None:
        """Stream an answer to the terminal; Ctrl-C stops it and keeps what there is."""
        if left_out := self.session.left_out:
            self.note(
                f"the context is full: the oldest {left_out} messages are no longer in the prompt, "
                "so that a quarter of it is free (/reset starts a new conversation)"
            )
        completion = write_answer(reply, self._markdown)
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

    def change_model(self, name: str) -> None:
        """Continue the conversation with another model; if it cannot be loaded, with this one."""
        with ProgressBar(f"fetching {name}", in_bytes=True) as download:
            path = resolve_model(name, download)
        open_checkpoint(path)  # a file that cannot be opened is found before this model is closed
        previous = {**self.options}
        if previous["chat_template"] is not None:
            self.note(f"the template {previous['chat_template']} was for the model before")
        self.options |= {"model": path, "chat_template": None}
        try:
            self._reload()
        except CullamaError:
            self.options = previous
            self._reload()
            raise

    def _reload(self) -> None:
        """Close the model before the next one is loaded: two may not fit in memory."""
        session, before = self.session, self._sampling.starting_params(self.llm)
        self.llm.close()
        self.llm, start = load_with_sampling(self._sampling, **self.options)
        params = carried_over(session.params, before, start)
        self.session = self.llm.session(None, params, session.messages)

    def _status_line(self) -> str:
        """Return the line below the editor: how full the context is, and the model's name."""
        longest = self.llm.longest_text
        filled = round(10 * min(1.0, self._context_used / longest))
        bar = "█" * filled + "░" * (10 - filled)
        return f" context {bar} {self._context_used:,} of {longest:,} tokens · {self.llm.name}"

    @staticmethod
    def note(text: str) -> None:
        click.secho(wrapped(text), dim=True)

    @staticmethod
    def print_error(text: str) -> None:
        click.secho(wrapped(text), fg="red")
