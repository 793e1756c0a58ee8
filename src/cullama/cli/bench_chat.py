"""`cullama bench chat`: the latency of a conversation's second turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .loading import load
from .options import model_options

if TYPE_CHECKING:
    from ..benchmark.chat_latency import ChatReport


@click.command("chat", short_help="Measure the latency of a conversation's second turn.")
@model_options
@click.option(
    "--history",
    type=click.IntRange(min=1),
    multiple=True,
    default=(64, 512, 2048),
    show_default=True,
    help="Tokens of the first turn; may be given several times.",
)
@click.option(
    "--words",
    type=click.IntRange(min=1),
    default=48,
    show_default=True,
    help="Of the second question.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Pairs of runs."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def command(
    history: tuple[int, ...], words: int, repeats: int, as_json: bool, **options: Any
) -> None:
    """Time the second turn of a conversation to its first token, and its new tokens alone.

    The first turn is in the prefix cache: the ratio of the two times tells what it still costs.
    """
    from ..benchmark.chat_latency import benchmark

    report = benchmark(load(**options), history, words, repeats)
    click.echo(json.dumps(report.as_json()) if as_json else _table(report))


def _table(report: ChatReport) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("cached before", "new tokens", "second turn", "new tokens alone", "ratio (low - high)"),
        title=report.model,
    )
    for run in report.runs:
        table.add_row(
            str(run.before),
            str(run.new),
            f"{run.seconds * 1e3:.1f} ms",
            f"{run.alone * 1e3:.1f} ms",
            f"{run.ratio:.2f} ({min(run.ratios):.2f} - {max(run.ratios):.2f})",
        )
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")
