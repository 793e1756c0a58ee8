"""`cullama eval answers`: answers to the prompts of a file, for others to judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .loading import load
from .options import model_options, selection_options
from .progress import ProgressBar


@click.command("answers", short_help="Write answers to a file's prompts.")
@click.argument("file", type=click.Path(path_type=Path))
@model_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A new file for the answers.",
)
@click.option(
    "-n",
    "--max-tokens",
    type=int,
    default=1024,
    show_default=True,
    metavar="N",
    help="Tokens of an answer at most.",
)
@click.option(
    "-t",
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 is greedy: always the likeliest token.",
)
@click.option(
    "-s",
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of what is drawn: tokens above temperature 0, and --sample.",
)
@selection_options
@click.option("--raw", is_flag=True, help="Continue each prompt as text, without chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    file: Path,
    output: Path,
    max_tokens: int,
    temperature: float,
    seed: int,
    limit: int | None,
    sample: int | None,
    raw: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer the `prompt` of each line in FILE, one JSON object a line, as IFEval has them.

    Each line of the output has the same fields, `response` and `finish_reason`. What is written
    stays where the command is stopped.
    """
    from ..benchmark.evaluation.answers import read_prompts, write_answers
    from ..benchmark.evaluation.task_file import Selection
    from ..sampling.params import SamplingParams

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    if output.exists():
        raise UsageError(f"{output}: there is such a file already, expected a new one")
    tasks = read_prompts(file, Selection(limit, sample, seed))
    llm = load(**options)
    with ProgressBar(f"answering {file.name}") as progress:
        cut_short = write_answers(llm, tasks, output, params, not raw, progress)
    if as_json:
        result = {
            "file": str(file),
            "output": str(output),
            "answers": len(tasks),
            "cut_short": cut_short,
            "model": llm.description,
        }
        click.echo(json.dumps(result))
        return
    click.echo(f"answers    {len(tasks)}, in {output}")
    if cut_short:
        click.echo(f"cut short  {cut_short}, at {max_tokens} tokens: see --max-tokens")
