"""`cullama chat`: a conversation at the terminal, or one question from a script."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from ..loading import load_with_sampling
from ..options import model_options, other_sampling_options
from ..sampling import SamplingOptions
from ..standard_input import read_standard_input
from ..text_command import TextCommand
from .keyboard import silent_keyboard

if TYPE_CHECKING:
    from ...chat.session import Session

DEFAULT_MAX_TOKENS = 1024  # enough for an answer with some code in it


@click.command("chat", short_help="Talk with a model.", cls=TextCommand)
@click.argument("question", nargs=-1, metavar="[QUESTION]…")
@model_options
@click.option("--system", metavar="TEXT", help="System message: how the model should behave.")
@click.option(
    "--template",
    "chat_template",
    metavar="FILE",
    help="A jinja2 chat template in place of the model's own, or 'none': continue as text.",
)
@click.option(
    "--template-variable",
    "template_variables",
    metavar="NAME=VALUE",
    multiple=True,
    callback=lambda context, option, values: dict(map(_variable, values)),
    help="A variable for the template, such as enable_thinking=false.",
)
@click.option(
    "-n",
    "--max-tokens",
    type=int,
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    metavar="N",
    help="Tokens of an answer, at most.",
)
@other_sampling_options
@click.option("--markdown/--no-markdown", default=True, help="Render markdown on a terminal.")
@click.option("--stats", is_flag=True, help="Print the speed of each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for one question.")
def command(
    question: tuple[str, ...],
    system: str | None,
    markdown: bool,
    stats: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Talk with a model; /help lists the commands of a conversation.

    With a QUESTION, answer it and exit; `-` in it stands for standard input. A question from a
    pipe needs no `-`.
    """
    sampling = SamplingOptions.pop_from(options)
    if (n := sampling.params.n) != 1:
        raise UsageError(f"--n is {n}, expected 1: a conversation has one answer at a time")
    if sampling.params.logprobs is not None and not as_json:
        raise UsageError("--logprobs shows in --json output only; add --json")
    asked = _question(question)
    if as_json and asked is None:
        raise UsageError("--json answers one question: give it, or pipe it in")
    if asked is None:
        from .loop import ChatLoop

        with silent_keyboard():
            llm, params = load_with_sampling(sampling, is_short=True, **options)
            session = llm.session(system, params)
            return ChatLoop(llm, session, sampling, options, markdown, stats).run()
    llm, params = load_with_sampling(sampling, **options)
    session = llm.session(system, params)
    return _answer_one(session, asked, llm.description, markdown, stats, as_json)


def _variable(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where VALUE is JSON or a plain word."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise click.BadParameter(f"{text!r}, expected NAME=VALUE, as enable_thinking=false")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _question(words: tuple[str, ...]) -> str | None:
    """Return the question to answer; None for a conversation at a terminal."""
    if not words and sys.stdin is not None and sys.stdin.isatty():
        return None
    if words and "-" not in words:
        question = " ".join(words)
    else:
        piped = read_standard_input("the question")
        question = "\n".join(piped if word == "-" else word for word in words or ("-",))
    if not question.strip():
        raise UsageError("the question is empty; give one, or start `cullama chat` at a terminal")
    return question


def _answer_one(
    session: Session, question: str, model: str, markdown: bool, stats: bool, as_json: bool
) -> int:
    from ..completion_json import completion_as_json
    from .screen import stats_line, write_answer

    completion = write_answer(session.stream(question), markdown, is_silent=as_json)
    if as_json:
        result = {
            "question": question,
            "system": session.system,
            **completion_as_json(completion),
            "model": model,
        }
        click.echo(json.dumps(result))
    if stats:
        click.secho(stats_line(completion), dim=True, err=True)
    return 130 if completion.finish_reason == "cancelled" else 0
