"""`cullama bench serve`: throughput and latency of continuous against static batching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CullamaError
from .loading import load_or_invent
from .options import model_options, pop, shape_option
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..benchmark.serve import ServeReport

WORKLOAD = ("requests", "shortest", "longest", "rate", "seed")


@click.command("serve", short_help="Measure many requests at once.")
@model_options
@shape_option
@click.option(
    "--requests", type=click.IntRange(min=1), default=256, show_default=True, help="How many."
)
@click.option(
    "--shortest",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Tokens of the shortest prompt and answer.",
)
@click.option(
    "--longest",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Tokens of the longest prompt and answer; lengths are drawn uniformly.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Requests a second, as a Poisson process.  [default: all at once]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of lengths and arrivals.")
@click.option(
    "--batch",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    help="Sequences that may run at once.",
)
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page that shows the continuous run, step by step.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def command(
    shape: str | None, batch: int, trace: Path | None, as_json: bool, **options: Any
) -> None:
    """Answer many requests: continuous batching against static batching, with the same kernels.

    Prompts are random tokens, answers are greedy and of drawn length. "static" keeps a batch
    together until its longest answer is complete, "leaving" lets sequences leave earlier, but none
    join.
    """
    from ..benchmark.serve import Workload, benchmark
    from ..benchmark.trace import Recorder

    workload = Workload(**pop(options, WORKLOAD))
    is_quiet = options["quiet"]
    llm = load_or_invent(shape, **options)
    recorder = Recorder(llm.engine) if trace else None
    with ProgressBar("answering") as progress:
        shown = (lambda done, total: None) if is_quiet else progress
        report = benchmark(llm, workload, batch, recorder, shown)
    if trace is not None and recorder is not None:
        page = recorder.page(f"{llm.description} · batch {batch}", workload.description)
        try:
            trace.write_text(page, encoding="utf-8")
        except OSError as error:
            raise CullamaError(f"cannot write {trace}: {error.strerror or error}") from None
    click.echo(json.dumps(report.as_json()) if as_json else _table(report))


def _table(report: ServeReport) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("", "tok/s", "continuous is", "seconds", "steps", "tokens drawn"),
        *("first token, p50 / p99", "between tokens, p50 / p99"),
        title=f"{report.model} · batch {report.batch}",
    )
    for run in report.runs:
        first, between = run.first_token, run.between_tokens
        table.add_row(
            run.kind,
            f"{run.tokens_per_second:.0f}",
            f"{report.ratio(run):.2f} ×",
            f"{run.seconds:.1f}",
            str(run.steps),
            str(run.computed),
            f"{first['p50']:.2f} / {first['p99']:.2f} s",
            f"{between['p50'] * 1e3:.1f} / {between['p99'] * 1e3:.1f} ms",
        )
    host = report.host
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report.workload)
        console.print(table)
        console.print(
            f"scheduling and batch building, {host.sequences} sequences, no model: "
            f"{host.schedule_seconds * 1e6:.0f} + {host.batch_seconds * 1e6:.0f} µs a step"
        )
    return capture.get().rstrip("\n")
