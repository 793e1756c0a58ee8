"""`cullama eval`: how good a model is at tasks that are given in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .eval_answers import command as answers
from .loading import load
from .options import model_options, selection_options
from .progress import ProgressBar

file_argument = click.argument("file", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("eval", short_help="Evaluate a model on tasks from files.")
def command() -> None:
    """Evaluate a model: multiple choice, perplexity of a text, answers for others to judge.

    Nothing is fetched but the model: tasks are read from files that you give. For the tasks of
    lm-evaluation-harness, see its adapter in the manual.
    """


@command.command("choices", short_help="Answer multiple-choice questions.")
@file_argument
@model_options
@selection_options
@click.option("-s", "--seed", type=int, help="Of --sample.  [default: 0]")
@json_option
def choices(
    file: Path,
    limit: int | None,
    sample: int | None,
    seed: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose the likeliest answer to each question in FILE, one JSON object a line.

    FILE has the fields of HellaSwag (ctx, endings, label), ARC (question, choices, answerKey), PIQA
    (goal, sol1, sol2, label), or prompt, choices and answer, the number of a choice.
    """
    from ..benchmark.evaluation.multiple_choice import answer_questions, read_questions
    from ..benchmark.evaluation.task_file import Selection

    if seed is not None and sample is None:
        raise UsageError("--seed is of --sample, expected both or none")
    questions = read_questions(file, Selection(limit, sample, seed or 0))
    llm = load(**options)
    with ProgressBar(f"scoring {file.name}") as progress:
        report = answer_questions(llm, questions, progress)
    if as_json:
        result = {"file": str(file), **report.as_json(), "model": llm.description}
        click.echo(json.dumps(result))
    else:
        click.echo(str(report))


@command.command("perplexity", short_help="Measure how well a text is predicted.")
@file_argument
@model_options
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that go through the model at once.  [default: the context, up to 2048]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens predicted in each window after the first.  [default: the window]",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N tokens only."
)
@json_option
def perplexity(
    file: Path,
    window: int | None,
    stride: int | None,
    limit: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the perplexity of the text in FILE (UTF-8)."""
    from ..benchmark.evaluation.perplexity import measure_perplexity
    from ..benchmark.evaluation.task_file import read_text

    text = read_text(file)
    llm = load(**options)
    with ProgressBar(f"scoring {file.name}") as progress:
        report = measure_perplexity(llm, text, window, stride, limit, progress)
    if as_json:
        result = {"file": str(file), **report.as_json(), "model": llm.description}
        click.echo(json.dumps(result))
    else:
        click.echo(str(report))


command.add_command(answers)
