"""The chat loop at the terminal: reads a line, then runs a command or streams an answer.

Commands are in `commands.py`, the line editor in `editor.py`, drawing in `screen.py`.
"""

from __future__ import annotations

from contextlib import suppress
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from ...chat.messages import content_text
from ...checkpoint.opening import open_checkpoint
from ...errors import CullamaError
from ...hub import resolve_model
from ..loading import load_with_sampling
from ..progress import ProgressBar
from ..sampling import carried_over
from ..terminal import fitted, wrapped
from .commands import WORDS_TO_LEAVE, Commands, Leave, counted, shortened
from .editor import Editor
from .screen import Screen, stats_lines, write_answer

if TYPE_CHECKING:
    from ...chat.session import Reply, Session
    from ...llm import LLM
    from ...text.completion import Completion
    from ..sampling import SamplingOptions
    from .keeper import Keeper


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
        keeper: Keeper,
    ) -> None:
        self.llm, self.session, self.options = llm, session, options
        self._sampling, self.keeper = sampling, keeper
        self._markdown, self._stats = markdown, stats
        self.draft = ""  # what the next prompt starts with
        self._status = ""  # the line below the editor
        self._is_loaded = True  # False where Ctrl-C came while a model was loaded
        self._commands = Commands(self)
        self._editor = Editor(
            self._commands, lambda: fitted(self._status, get_terminal_size().columns)
        )

    def run(self) -> int:
        _ = self.llm.chat_format  # warns now, not at the first question, where there is no template
        self.note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        self.show_last_turn()
        self._update_status()
        while True:
            draft, self.draft = self.draft, ""
            try:
                line = self._editor.read(draft)
            except EOFError:
                return 0
            except KeyboardInterrupt:
                self.note("Ctrl-D or /quit leaves")
                continue
            try:
                self._handle(line)
            except Leave:
                return 0
            except KeyboardInterrupt:
                self.note("stopped")
            except CullamaError as error:
                self.print_error(str(error))

    def _handle(self, line: str) -> None:
        if line.rstrip() in WORDS_TO_LEAVE:
            raise Leave
        if not line.strip():
            return
        if not self._is_loaded:
            self._reload()
        try:
            if line.startswith("/"):
                self._commands.run(line)
            else:
                # A space in front makes "/etc" and "exit" messages.
                is_escaped = line.startswith(" /") or line.strip() in WORDS_TO_LEAVE
                self.show(self.session.stream(line[1:] if is_escaped else line))
        finally:
            self._update_status()
            self.keeper.save(self.session, self.options["model"])

    def show(self, reply: Reply) -> None:
        """Stream an answer to the terminal; Ctrl-C stops it and keeps what there is."""
        if left_out := self.session.left_out:
            self.note(
                f"the context is full: the oldest {left_out} messages are no longer in the prompt, "
                "so that a quarter of it is free (/reset starts a new conversation)"
            )
        completion = write_answer(reply, self._markdown)
        if note := _how_it_ended(completion, is_continued=bool(reply.begun.text)):
            self.note(note)
        if self._stats:
            for line in stats_lines(completion).splitlines():
                self.note(line)

    def show_last_turn(self) -> None:
        """Show where a conversation has ended that is continued."""
        for message in self.session.messages[-2:]:
            if message["role"] == "user":
                self.note(f"> {shortened(content_text(message))}")
            elif message["role"] == "assistant":
                with Screen(self._markdown) as screen:
                    screen.write(content_text(message))
        if turns := self.session.turns:
            self.note(f"{counted(turns, 'turn')} so far")

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
        except BaseException:  # Ctrl-C, too
            self.options = previous
            self.note(f"back to {self.llm.name} …")
            self._reload()
            raise

    def _reload(self) -> None:
        """Close the model before the next one is loaded: two may not fit in memory."""
        session, before = self.session, self._sampling.starting_params(self.llm)
        self._is_loaded = False
        self.llm.close()
        llm, start = load_with_sampling(self._sampling, is_short=True, **self.options)
        params = carried_over(session.params, before, start)
        self.llm, self.session = llm, llm.session(None, params, session.messages)
        self._is_loaded = True

    def _status_line(self) -> str:
        return fitted(self._status, get_terminal_size().columns)

    def _update_status(self) -> None:
        """Write how full the context is, and the model's name; the old line stays where a chat
        template refuses the conversation."""
        if not self._is_loaded:
            self._status = f" {self.llm.name} is not loaded; the next line loads it"
            return
        with suppress(CullamaError):
            used, longest = self.session.context_used, self.llm.longest_text
            filled = round(10 * min(1.0, used / longest))
            bar = "█" * filled + "░" * (10 - filled)
            self._status = f" context {bar} {used:,} of {longest:,} tokens · {self.llm.name}"

    @staticmethod
    def note(text: str) -> None:
        click.secho(wrapped(text), dim=True)

    @staticmethod
    def print_error(text: str) -> None:
        click.secho(wrapped(text), fg="red")


def _how_it_ended(completion: Completion, is_continued: bool) -> str:
    """Return what to say where the model has not ended a whole answer; "" where it has."""
    if completion.finish_reason == "length":
        return (
            f"cut after {counted(len(completion.token_ids), 'token')}; /continue goes on, "
            "/set max_tokens 4096 allows longer answers"
        )
    if completion.finish_reason == "cancelled" and completion.text:
        return "stopped; /continue goes on, /retry asks again"
    if completion.finish_reason == "cancelled":
        what = "answer stays as it was" if is_continued else "question was taken back"
        return f"stopped before the first word: the {what}"
    return "" if completion.text or not is_continued else "the model ends its answer here"
