"""`cullama chat`: a conversation at the terminal, or one question from a script."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from ..completion_json import completion_as_json, refuse_logprobs
from ..loading import load_with_sampling
from ..options import model_options, other_sampling_options
from ..sampling import SamplingOptions
from ..standard_input import DASH, read_prompt
from ..text_command import TextCommand
from .keeper import (
    Keeper,
    last_conversation,
    listed_conversations,
    numbered_conversation,
    open_archive,
    print_list,
)
from .keyboard import silent_keyboard

if TYPE_CHECKING:
    from ...chat.archive import Archive, KeptConversation
    from ...chat.session import Session
    from ...llm import LLM

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
    "--n-predict",
    "max_tokens",
    type=int,
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    metavar="N",
    help="Tokens of an answer, at most; -1: all that the context has room for.",
)
@other_sampling_options
@click.option("--markdown/--no-markdown", default=True, help="Render markdown on a terminal.")
@click.option("--stats", is_flag=True, help="Print the speed of each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for one question.")
@click.option(
    "--continue",
    "is_continued",
    is_flag=True,
    help="Go on with the conversation that was saved last, and its model.",
)
@click.option(
    "--list", "is_listed", is_flag=True, help="List saved conversations; go on with one of them."
)
@click.option(
    "--save/--no-save",
    "is_saving",
    default=True,
    envvar="CULLAMA_SAVE",
    show_envvar=True,
    help="Save the conversation after each turn.",
)
def command(
    question: tuple[str, ...],
    system: str | None,
    markdown: bool,
    stats: bool,
    as_json: bool,
    is_continued: bool,
    is_listed: bool,
    is_saving: bool,
    **options: Any,
) -> int:
    """Talk with a model; /help lists the commands of a conversation.

    With a QUESTION, answer it and exit; `-` in it stands for standard input. Text from a pipe needs
    no `-`: it is the question, or comes behind QUESTION.
    """
    sampling = SamplingOptions.pop_from(options)
    if (n := sampling.params.n) != 1:
        raise UsageError(f"--n is {n}, expected 1: a conversation has one answer at a time")
    refuse_logprobs(sampling.params, as_json)
    keeper = Keeper(open_archive(), is_saving)
    if is_listed:
        kept = _choose(keeper.archive, question, is_continued)
        if kept is None:
            return 0
    asked = None if is_listed else _question(question, options["quiet"])
    if as_json and asked is None:
        raise UsageError("--json answers one question: give it, or pipe it in")
    if is_continued:
        kept = last_conversation(keeper.archive)
    elif not is_listed:
        kept = None
    if asked is None:
        from .loop import ChatLoop

        with silent_keyboard():
            llm, session = _begin(system, sampling, kept, options, is_short=True)
            keeper.begin(kept)
            loop = ChatLoop(llm, session, sampling, options, markdown, stats, keeper)
            return loop.run()
    llm, session = _begin(system, sampling, kept, options)
    code = _answer_one(session, asked, llm.description, markdown, stats, as_json)
    if kept is not None:
        keeper.begin(kept)
        keeper.save(session, options["model"])
    return code


def _choose(
    archive: Archive | None, question: tuple[str, ...], is_continued: bool
) -> KeptConversation | None:
    """List the saved conversations, and ask for one at a terminal."""
    if question or is_continued:
        raise UsageError("--list goes alone: it asks which conversation to go on with")
    conversations = listed_conversations(archive)
    print_list(conversations)
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None

    def chosen(number: str) -> KeptConversation | None:
        if not number.strip():
            return None
        try:
            return numbered_conversation(conversations, number.strip())
        except UsageError as error:  # asked again
            raise click.BadParameter(str(error)) from None

    return click.prompt("go on with number", "", show_default=False, value_proc=chosen)


def _begin(
    system: str | None,
    sampling: SamplingOptions,
    kept: KeptConversation | None,
    options: dict[str, Any],
    is_short: bool = False,
) -> tuple[LLM, Session]:
    """Load the model, and begin a conversation with it or go on with one."""
    if kept is not None and options["model"] is None:
        options["model"] = kept.saved.loaded_from
    llm, params = load_with_sampling(sampling, is_short=is_short, **options)
    if kept is None:
        return llm, llm.session(system, params)
    session = kept.saved.session(llm)
    session.params = sampling.override(session.params)
    if system is not None:
        session.system = system
    return llm, session


def _variable(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where VALUE is JSON or a plain word."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise click.BadParameter(f"{text!r}, expected NAME=VALUE, as enable_thinking=false")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _question(words: tuple[str, ...], quiet: bool) -> str | None:
    """Return the question to answer; None for a conversation at a terminal."""
    if not words and sys.stdin is not None and sys.stdin.isatty():
        return None
    question = read_prompt(words or (DASH,), "the question", quiet)
    if not question or not question.strip():
        raise UsageError("the question is empty; give one, or start `cullama chat` at a terminal")
    return question


def _answer_one(
    session: Session, question: str, model: str, markdown: bool, stats: bool, as_json: bool
) -> int:
    from .screen import stats_lines, write_answer

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
        click.secho(stats_lines(completion), dim=True, err=True)
    return 130 if completion.finish_reason == "cancelled" else 0
