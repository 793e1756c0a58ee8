"""The commands of a chat, /help to /quit: what is said to the program rather than to the model.

Each command is a method, whose docstring is its help. They parse their arguments and print;
undo, retry and files are the session's work (`cullama.chat`).
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from ...chat.messages import content_text
from ...errors import UsageError
from ...files.cache_folder import expand_home
from ...sampling.params import SamplingParams
from ..options import unescaped
from ..terminal import sanitized, wrapped
from .alternatives import alternative_lines, chosen_alternative
from .keeper import listed_conversations, numbered_conversation, print_list

if TYPE_CHECKING:
    from ...chat.archive import KeptConversation
    from ...chat.session import Reply, Session
    from ...chat.uncertain import UncertainToken
    from ...llm import LLM
    from .alternatives import alternative_lines, chosen_alternative
from .keeper import Keeper

# name → its arguments
ARGUMENTS = {
    "/help": "",
    "/reset": "",
    "/undo": "[N]",
    "/retry": "",
    "/edit": "[TEXT]",
    "/continue": "",
    "/alternatives": "[CHOICE]",
    "/system": "[TEXT]",
    "/set": "[NAME [VALUE]]",
    "/stats": "",
    "/tokens": "",
    "/copy": "",
    "/save": "FILE",
    "/list": "",
    "/load": "FILE|NUMBER",
    "/model": "[NAME]",
    "/quit": "",
}

# What other programs call them.
ALIASES = {"/exit": "/quit", "/bye": "/quit", "/clear": "/reset", "/?": "/help"}

# Typed alone on a line; with a space in front they are a message.
WORDS_TO_LEAVE = ("exit", "quit")

# Parameters that /set refuses, and why.
NOT_SETTABLE = {
    "n": "a conversation has one answer at a time",
    "logprobs": "they show in `cullama chat --json QUESTION`",
    "prompt_logprobs": "they show in `cullama chat --json QUESTION`",
}

# Terminals ignore longer ones, xterm above some 100 KB of base64.
MAX_COPIED_BYTES = 74_000


class Leave(Exception):  # noqa: N818  (a request, not an error)
    """Ends the chat loop."""


class Chat(Protocol):
    """What the commands use of the chat loop."""

    llm: LLM
    session: Session
    draft: str
    keeper: Keeper

    def note(self, text: str) -> None: ...
    def show(self, reply: Reply) -> None: ...
    def show_last_turn(self) -> None: ...
    def change_model(self, name: str) -> None: ...


class Commands:
    """Runs the commands of one chat, and lists them for help and completion."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._actions: dict[str, Callable[[str], None]] = {
            name: getattr(self, method_name(name)) for name in ARGUMENTS
        }
        # What was listed last, and for which messages.
        self._alternatives: tuple[list[dict[str, Any]], list[UncertainToken]] = ([], [])
        self._listed: list[KeptConversation] = []  # the numbers of /load are those of this list

    def run(self, line: str) -> None:
        """Run a command, "/undo 2" say.

        Raises:
            CullamaError: it cannot be done; then nothing has changed.
            Leave: for /quit.
        """
        name, _, argument = line.strip().partition(" ")
        name = ALIASES.get(name, name)
        if name not in self._actions:
            near = get_close_matches(name, self._actions, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "/help lists those there are"
            raise UsageError(f"there is no {name}; {hint}")
        if argument and not ARGUMENTS[name]:
            raise UsageError(f"{name} takes no argument, found {argument!r:.40}")
        self._actions[name](argument.strip())

    # --- for the editor ------------------------------------------------------------------------

    def names(self) -> Iterable[tuple[str, str]]:
        """Return each command with the first line of its help."""
        return [(name, self._summary(name)) for name in self._actions]

    def arguments(self, name: str) -> Iterable[str] | None:
        """Return what may follow a command; None stands for a path."""
        if name == "/set":
            return [item.name for item in fields(SamplingParams) if item.name not in NOT_SETTABLE]
        return None if name in ("/save", "/load", "/model") else ()

    def _summary(self, name: str) -> str:
        return (self._actions[name].__doc__ or "").partition("\n")[0].rstrip(".")

    # --- the conversation ----------------------------------------------------------------------

    def help(self, argument: str) -> None:
        """List the commands."""
        for name, takes in ARGUMENTS.items():
            click.echo(wrapped(f"  {name + ' ' + takes:<22} {self._summary(name)}", indent=25))
        self._chat.note(
            "Enter sends; Alt-Enter, or \\ before Enter, starts a new line; Tab completes; arrow "
            "keys bring back earlier lines; Ctrl-C stops an answer, Ctrl-Z suspends the program, "
            "Ctrl-D, or exit as a word, leaves; a space before a / makes the line a message."
        )

    def reset(self, argument: str) -> None:
        """Start a new conversation; system message and settings stay."""
        session = self._chat.session
        self._chat.session = self._chat.llm.session(session.system, session.params)
        self._chat.keeper.begin()
        self._chat.note("a new conversation")

    def undo(self, argument: str) -> None:
        """Take the last turn back, or the last N."""
        if argument and not re.fullmatch("[0-9]{1,9}", argument):
            raise UsageError(f"/undo takes a number of turns, found {argument!r:.40}")
        session, wanted = self._chat.session, int(argument or 1)
        questions = sum(message["role"] == "user" for message in session.messages)
        for message in session.undo(min(wanted, questions) if questions else wanted):
            if message["role"] == "user":
                self._chat.note(f"taken back: {shortened(content_text(message))}")
        if wanted > questions:
            self._chat.note(f"there were no more than {counted(questions, 'turn')}")

    def retry(self, argument: str) -> None:
        """Ask the last question again."""
        self._chat.show(self._chat.session.stream_retry())

    def edit(self, argument: str) -> None:
        """Change the last question, in the line or to TEXT, and ask it again."""
        if argument:
            self._chat.show(self._chat.session.stream_edit(argument))
        else:
            [question, *_] = self._chat.session.undo()
            self._chat.draft = content_text(question)

    def continue_(self, argument: str) -> None:
        """Go on with the last answer where it ends."""
        self._chat.show(self._chat.session.stream_continue())

    def alternatives(self, argument: str) -> None:
        """Show where the answer was least sure; /alternatives 1b says b at place 1 and goes on."""
        session = self._chat.session
        if not argument:
            self._alternatives = (session.messages, session.uncertain_tokens())
            for line in alternative_lines(self._alternatives[1]):
                click.echo(wrapped(line, indent=4))
            self._chat.note("/alternatives 1a takes a at place 1, and goes on from there")
            return
        messages, tokens = self._alternatives
        if messages is not session.messages:  # of another answer, or none has been listed
            tokens = session.uncertain_tokens()
        place, candidate = chosen_alternative(tokens, argument)
        self._chat.show(session.stream_branch(place.index, candidate.token_id))

    def system(self, argument: str) -> None:
        """Show the system message, or change it; - removes it."""
        session = self._chat.session
        if argument:
            session.system = None if argument == "-" else argument
        text = session.system
        self._chat.note("no system message" if text is None else f"system: {sanitized(text)}")

    # --- how it answers ------------------------------------------------------------------------

    def set(self, argument: str) -> None:
        """Show the sampling parameters, or set one."""
        name, _, value = argument.partition(" ")
        known = [item.name for item in fields(SamplingParams)]
        if name and name not in known:
            near = get_close_matches(name, known, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"there is no setting {name!r}; {hint}")
        if name in NOT_SETTABLE:
            raise UsageError(f"{name} cannot be set in a conversation: {NOT_SETTABLE[name]}")
        if value.strip():
            session = self._chat.session
            session.params = replace(session.params, **{name: _parsed(name, value.strip())})
        defaults, params = SamplingParams(), self._chat.session.params
        for item in fields(params):
            if item.name not in NOT_SETTABLE and name in ("", item.name):
                value = getattr(params, item.name)
                text = "none" if value is None else json.dumps(value, ensure_ascii=False)
                mark = "" if value == getattr(defaults, item.name) else "  *"
                click.echo(f"  {item.name:<20} {text}{mark}")
        if not name:
            self._chat.note("  * differs from the model's own distribution")

    # --- what there is to see ------------------------------------------------------------------

    def stats(self, argument: str) -> None:
        """Show how many tokens were read and generated, and how long it took."""
        llm, session = self._chat.llm, self._chat.session
        metrics = llm.engine.metrics
        rows = {
            "model": llm.description,
            "turns": f"{session.turns} in this conversation",
            "context": f"{session.context_used:,} of {llm.longest_text:,} tokens",
            "prompts": f"{metrics.prompt_tokens:,} tokens, {metrics.cached_tokens:,} of them"
            f" cached ({metrics.cache_hit_rate:.0%})",
            "answers": f"{metrics.drawn_tokens:,} tokens",
            "computing": f"{metrics.busy_seconds:.1f} s in {metrics.steps:,} steps",
        }
        for name, value in rows.items():
            click.echo(wrapped(f"  {name:<10} {value}", indent=13))

    def tokens(self, argument: str) -> None:
        """Show the last prompt as the model read it, token by token."""
        from rich.console import Console
        from rich.text import Text

        prompt = self._chat.session.last_prompt
        if prompt is None:
            raise UsageError("nothing has been asked yet")
        text, tokenizer = Text(), self._chat.llm.tokenizer
        for index, token in enumerate(prompt.token_ids):
            spelled = sanitized(tokenizer.decode([token], skip_special_tokens=False))
            shade = "on grey23" if index % 2 else "on grey35"
            text.append(spelled.replace("\n", "⏎") or "∅", f"white {shade}")
            text.append(f"{token} ", "dim")
            if spelled.endswith("\n"):
                text.append("\n")
        Console(file=sys.stdout, highlight=False).print(text)
        self._chat.note(f"{len(prompt.token_ids)} tokens")

    def copy(self, argument: str) -> None:
        """Put the last answer into the clipboard."""
        messages = self._chat.session.messages
        answers = [content_text(it).strip() for it in messages if it["role"] == "assistant"]
        if not answers:
            raise UsageError("there is no answer to copy yet")
        data = answers[-1].encode()
        if len(data) > MAX_COPIED_BYTES:
            raise UsageError(
                f"the answer is {len(data):,} bytes, expected at most {MAX_COPIED_BYTES:,}, which "
                "terminals copy; /save FILE keeps it"
            )
        # The terminal's OSC 52, which reaches the clipboard at this end of an ssh connection.
        sys.stdout.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
        sys.stdout.flush()
        self._chat.note(f"copied {len(answers[-1]):,} characters, if this terminal allows it")

    # --- files and models ----------------------------------------------------------------------

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        from ...chat.saved import save

        path = _path(argument, "/save")
        save(self._chat.session, path)
        self._chat.note(f"saved {counted(self._chat.session.turns, 'turn')} in {path}")

    def list(self, argument: str) -> None:
        """List the conversations that were saved by themselves."""
        self._listed = listed_conversations(self._chat.keeper.archive)
        print_list(self._listed)
        self._chat.note("/load NUMBER goes on with one")

    def load(self, argument: str) -> None:
        """Go on with a saved conversation, from a file or the list."""
        from ...chat.saved import load

        chat, kept = self._chat, None
        if argument.isdecimal():
            listed = self._listed or listed_conversations(chat.keeper.archive)
            kept = numbered_conversation(listed, argument)
            chat.session = kept.saved.session(chat.llm)
        else:
            chat.session = load(chat.llm, _path(argument, "/load"))
        chat.keeper.begin(kept)
        chat.show_last_turn()

    def model(self, argument: str) -> None:
        """Show which model this is, or continue with another."""
        if argument:
            self._chat.change_model(argument)
        else:
            self._chat.note(self._chat.llm.description)

    def quit(self, argument: str) -> None:
        """Leave."""
        raise Leave


def method_name(command: str) -> str:
    """Return the name of the method behind a command, "continue_" behind "/continue"."""
    word = command.removeprefix("/")
    return f"{word}_" if iskeyword(word) else word


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise UsageError(f"{command} takes the name of a file")
    return expand_home(argument, "the file")


def _parsed(name: str, text: str) -> Any:
    """Return a value of /set: JSON or a plain word; "none", "off" and "null" give the default."""
    if text.lower() in ("none", "off", "null"):
        return getattr(SamplingParams(), name)
    try:
        value = json.loads(text)
    except ValueError:
        return unescaped(text) if name == "stop" else text
    if name == "stop" and not isinstance(value, list):
        return [value if isinstance(value, str) else text]
    if name == "stop_token_ids" and isinstance(value, int):
        return [value]
    return value


def shortened(text: str) -> str:
    line = " ".join(sanitized(text).split())
    return line if len(line) <= 70 else f"{line[:69]}…"
