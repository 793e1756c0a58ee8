"""What can be said to the program rather than to the model: /help, /undo, /set and their like.

Each command is a method; its docstring is its help. They speak to the talk's session and print;
what they mean for a conversation is the session's to know.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from ...sampling.params import SamplingParams, biases_from_json
from ..terminal import shown, wrapped

if TYPE_CHECKING:
    from .talk import Talk

# name → what it takes
ARGUMENTS = {
    "/help": "",
    "/reset": "",
    "/undo": "[N]",
    "/retry": "",
    "/edit": "[TEXT]",
    "/system": "[TEXT]",
    "/set": "[NAME [VALUE]]",
    "/stats": "",
    "/tokens": "",
    "/copy": "",
    "/save": "FILE",
    "/load": "FILE",
    "/model": "[NAME]",
    "/quit": "",
}

# Parameters that a conversation at a terminal has no use for.
NOT_HERE = {
    "n": "a conversation has one answer at a time",
    "logprobs": "they show in `cullama chat --json QUESTION`",
}

# Terminals drop longer ones, xterm beyond some 100 KB.
MOST_COPIED = 74_000


class Leave(Exception):  # noqa: N818  (nothing went wrong)
    """The user wants to go."""


class Commands:
    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._actions: dict[str, Callable[[str], None]] = {
            name: getattr(self, name[1:]) for name in ARGUMENTS
        }

    def carry_out(self, line: str) -> None:
        """Raises CullamaError where it cannot be done; then nothing has changed."""
        name, _, argument = line.strip().partition(" ")
        if name not in self._actions:
            near = get_close_matches(name, self._actions, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "/help lists those there are"
            raise UsageError(f"there is no {name}; {hint}")
        if argument and not ARGUMENTS[name]:
            raise UsageError(f"{name} takes nothing behind it, found {argument!r:.40}")
        self._actions[name](argument.strip())

    # --- for the editor ------------------------------------------------------------------------

    def names(self) -> Iterable[tuple[str, str]]:
        return [(name, self._meaning(name)) for name in self._actions]

    def arguments(self, name: str) -> Iterable[str] | None:
        if name == "/set":
            return [item.name for item in fields(SamplingParams) if item.name not in NOT_HERE]
        return None if name in ("/save", "/load", "/model") else ()

    def _meaning(self, name: str) -> str:
        return (self._actions[name].__doc__ or "").partition("\n")[0].rstrip(".")

    # --- the conversation ----------------------------------------------------------------------

    def help(self, argument: str) -> None:
        """List what can be done."""
        for name, takes in ARGUMENTS.items():
            click.echo(f"  {name + ' ' + takes:<22} {self._meaning(name)}")
        self._talk.note(
            "Enter sends; Alt-Enter, or \\ before Enter, begins a new line; Tab completes; arrow "
            "keys bring back what was typed; Ctrl-C stops an answer, Ctrl-D leaves; a space before "
            "a / makes it text."
        )

    def reset(self, argument: str) -> None:
        """Begin a new conversation; system message and settings stay."""
        session = self._talk.session
        self._talk.use(session.llm.session(session.system, session.params))
        self._talk.note("a new conversation")

    def undo(self, argument: str) -> None:
        """Take the last turn back, or the last N."""
        taken = self._talk.session.undo(_count(argument))
        questions = [message["content"] for message in taken if message["role"] == "user"]
        for question in questions:
            self._talk.note(f"taken back: {_in_short(question)}")

    def retry(self, argument: str) -> None:
        """Ask the last question again."""
        self._talk.show(self._talk.session.stream_retry())

    def edit(self, argument: str) -> None:
        """Change the last question, in the line or to TEXT, and ask it again."""
        if argument:
            self._talk.show(self._talk.session.stream_edit(argument))
        else:
            [question, *_] = self._talk.session.undo()
            self._talk.draft = question["content"]

    def system(self, argument: str) -> None:
        """Show how the model is to behave, or change it; - for no such message."""
        session = self._talk.session
        if argument:
            session.system = None if argument == "-" else argument
        told = session.system
        self._talk.note("no system message" if told is None else f"system: {shown(told)}")

    # --- how it answers ------------------------------------------------------------------------

    def set(self, argument: str) -> None:
        """Show what the sampler is asked for, or change one of it."""
        name, _, value = argument.partition(" ")
        if name:
            self._check_settable(name)
        if value.strip():
            session = self._talk.session
            session.params = replace(session.params, **{name: _value(name, value.strip())})
        self._show_params([name] if name else None)

    @staticmethod
    def _check_settable(name: str) -> None:
        known = [item.name for item in fields(SamplingParams)]
        if name not in known:
            near = get_close_matches(name, known, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"there is no setting {name!r}; {hint}")
        if name in NOT_HERE:
            raise UsageError(f"{name} cannot be set in a conversation: {NOT_HERE[name]}")

    def _show_params(self, names: list[str] | None) -> None:
        usual, params = SamplingParams(), self._talk.session.params
        for item in fields(params):
            if item.name in NOT_HERE or (names and item.name not in names):
                continue
            value = getattr(params, item.name)
            changed = "" if value == getattr(usual, item.name) else "  *"
            click.echo(f"  {item.name:<20} {_spelled(value)}{changed}")
        if not names:
            self._talk.note("  * differs from the model's own distribution")

    # --- what there is to see ------------------------------------------------------------------

    def stats(self, argument: str) -> None:
        """Say how much was read and written, and how fast."""
        session = self._talk.session
        metrics, engine = session.llm.engine.metrics, session.llm
        rows = {
            "model": engine.description,
            "turns": f"{session.turns} in this conversation",
            "context": f"{session.context_used:,} of {engine.longest_text:,} tokens",
            "prompts": f"{metrics.prompt_tokens:,} tokens, {metrics.cached_tokens:,} of them"
            f" read before ({metrics.cache_hit_rate:.0%})",
            "answers": f"{metrics.drawn_tokens:,} tokens",
            "computing": f"{metrics.busy_seconds:.1f} s in {metrics.steps:,} steps",
        }
        for name, value in rows.items():
            click.echo(wrapped(f"  {name:<10} {value}", indent=13))

    def tokens(self, argument: str) -> None:
        """Show the last prompt as the model got it, token by token."""
        from rich.console import Console
        from rich.text import Text

        prompt = self._talk.session.last_prompt
        if prompt is None:
            raise UsageError("nothing has been asked yet")
        text, tokenizer = Text(), self._talk.session.llm.tokenizer
        for index, token in enumerate(prompt.token_ids):
            spelled = shown(tokenizer.decode([token], skip_special_tokens=False))
            shade = "on grey23" if index % 2 else "on grey35"
            text.append(spelled.replace("\n", "⏎") or "∅", f"white {shade}")
            text.append(f"{token} ", "dim")
            if spelled.endswith("\n"):
                text.append("\n")
        Console(file=sys.stdout, highlight=False).print(text)
        self._talk.note(f"{len(prompt.token_ids)} tokens")

    def copy(self, argument: str) -> None:
        """Put the last answer into the clipboard."""
        messages = self._talk.session.messages
        answers = [it["content"] for it in messages if it["role"] == "assistant"]
        if not answers:
            raise UsageError("there is no answer to copy yet")
        data = answers[-1].encode()
        if len(data) > MOST_COPIED:
            raise UsageError(
                f"the answer is {len(data):,} bytes, and terminals copy {MOST_COPIED:,} at most; "
                "/save FILE keeps it"
            )
        # OSC 52, which also reaches the clipboard of the other end of ssh.
        sys.stdout.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
        sys.stdout.flush()
        self._talk.note(f"copied {len(answers[-1]):,} characters, if this terminal allows it")

    # --- files and models ----------------------------------------------------------------------

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        from ...chat.saved import save

        path = _path(argument, "/save")
        save(self._talk.session, path)
        self._talk.note(f"saved {_turns(self._talk.session.turns)} in {path}")

    def load(self, argument: str) -> None:
        """Go on with a conversation that was saved."""
        from ...chat.saved import load

        session = load(self._talk.session.llm, _path(argument, "/load"))
        self._talk.use(session)
        for message in session.messages[-2:]:
            self._talk.note(f"{message['role']}: {_in_short(message['content'])}")
        self._talk.note(f"{_turns(session.turns)} loaded")

    def model(self, argument: str) -> None:
        """Say which model this is, or go on with another."""
        if not argument:
            self._talk.note(self._talk.session.llm.description)
            return
        self._talk.change_model(argument)

    def quit(self, argument: str) -> None:
        """Leave."""
        raise Leave


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _count(argument: str) -> int:
    if not argument:
        return 1
    if not argument.isdecimal():
        raise UsageError(f"/undo takes how many turns, found {argument!r:.40}")
    return int(argument)


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise UsageError(f"{command} takes the name of a file")
    return Path(argument).expanduser()


def _value(name: str, text: str) -> Any:
    """As JSON spells it, or a plain word; "none" and "off" are none."""
    if text.lower() in ("none", "off", "null"):
        return getattr(SamplingParams(), name)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if name == "stop" and not isinstance(value, list):
        return [text] if not isinstance(value, str) else [value]
    if name == "stop_token_ids" and isinstance(value, int):
        return [value]
    if name == "logit_bias" and isinstance(value, dict):
        return biases_from_json(value)
    return value


def _spelled(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _in_short(text: str) -> str:
    line = " ".join(shown(text).split())
    return line if len(line) <= 70 else f"{line[:69]}…"
