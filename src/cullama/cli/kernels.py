"""`cullama kernels`: which kernels there are, and how fast each should be, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ..errors import CullamaError, UsageError
from . import kernels_check
from .log import show_log

if TYPE_CHECKING:
    from ..emulation.timing.cards import Card
    from ..emulation.timing.profile import ProfiledLaunch
    from ..model.config import ModelConfig

MAX_OBSTACLES = 3  # of a launch, on a terminal

operators_argument = click.argument("operators", nargs=-1, metavar="[OPERATOR]…")
card_option = click.option(
    "--card",
    default="h200",
    show_default=True,
    metavar="NAME",
    help="GPU that is predicted for: h200, h100, a100, 4090, 5090, l4.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Storage type.",
)
model_option = click.option(
    "-m", "--model", metavar="NAME", help="Take this model's sizes.  [default: SmolLM2-135M's]"
)
config_option = click.option(
    "--config",
    metavar="NAME",
    help="Take a known shape's sizes, without files: llama-3.2-1b, llama-3.1-8b, smollm2-135m, …",
)
shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=N,…",
    help="Numbers to take in place of the model's, such as rows=1,inputs=2048,outputs=16384. "
    "Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group("kernels", short_help="List, check and profile CUDA kernels, without a GPU.")
def command() -> None:
    """List the CUDA kernels, check your own, and predict their speed, on the emulated GPU.

    An operator is named alone or with a variant: linear, "attention, decode", "decode step".
    """


command.add_command(kernels_check.command)


@command.command("list", short_help="Which kernels each operator launches.")
@operators_argument
@card_option
@dtype_option
@model_option
@config_option
@shape_option
@json_option
def list_kernels(as_json: bool, **options: Any) -> None:
    """List operators with their kernels, files, launch shapes and, given ptxas, registers."""
    card, rows = launches(is_counted=False, as_json=as_json, **options)
    if as_json:
        click.echo(json.dumps([row.as_json(card) for row in rows]))
        return
    table = Table("operator", "kernel", "file", "grid", "threads", "shared", "registers", box=None)
    for row in rows:
        launch, needs = row.launch, row.resources
        shared = launch.shared + (needs.shared if needs else 0)
        registers = str(needs.registers) if needs else "?"
        table.add_row(
            *(row.case, launch.kernel, f"{launch.file}.cu", grid_of(row)),
            *(str(launch.threads), str(shared), registers),
        )
    print_table(table, rows)


@command.command("profile", short_help="Counters and predicted times.")
@operators_argument
@card_option
@dtype_option
@model_option
@config_option
@shape_option
@json_option
@click.option(
    "--html", metavar="FILE", help="Write a page with a roofline and each line's counters."
)
def profile_kernels(as_json: bool, html: str | None, **options: Any) -> None:
    """Run operators' kernels on the emulated GPU, count, and predict their time on a card.

    The slowest come first, and what holds each back is named with its line of the kernel. The
    prediction is a model, stated in the manual, and not a measurement: what holds a kernel back,
    and which of two is faster, is what it is for.
    """
    card, rows = launches(is_counted=True, as_json=as_json, **options)
    rows.sort(key=lambda row: -row.times * row.microseconds)
    if html:
        from ..doctor.kernels.report import write_report

        write_report(Path(html), card, rows)
    if as_json:
        click.echo(json.dumps([row.as_json(card) for row in rows]))
        return
    print_profile(rows, card)


def launches(
    operators: tuple[str, ...],
    card: str,
    dtype: str,
    model: str | None,
    config: str | None,
    shapes: tuple[str, ...],
    *,
    is_counted: bool,
    as_json: bool,
) -> tuple[Card, list[ProfiledLaunch]]:
    """Return the card and the launches that the options ask for."""
    from ..doctor.kernels.profile import profile
    from ..doctor.kernels.shapes import parse_shape
    from ..emulation.timing.cards import card_named

    show_log(quiet=as_json)
    chosen, asked = card_named(card), [parse_shape(text) for text in shapes]
    sizes = config_of(model, config)
    announce = announcer(as_json)
    found = profile(
        operators, chosen, dtype, sizes, shapes=asked, is_counted=is_counted, announce=announce
    )
    return chosen, list(found)


def config_of(model: str | None, config: str | None) -> ModelConfig:
    """Return the sizes of a model, or of a known shape.

    Raises:
        UsageError: both are given, or neither can be read.
    """
    from ..benchmark.shapes import known_shape
    from ..checkpoint.opening import open_checkpoint
    from ..hub import resolve_model

    if model is None:
        return known_shape(config or "smollm2-135m")
    if config is not None:
        raise UsageError("--model and --config both give sizes: give one of them")
    try:
        return open_checkpoint(resolve_model(model)).config
    except CullamaError as error:
        raise UsageError(f"{model}: {error}") from None


def announcer(is_quiet: bool) -> Callable[[str], None]:
    """Return what prints a line about the work at hand on standard error."""

    def announce(text: str) -> None:
        if not is_quiet:
            click.echo(text, err=True)

    return announce


def print_profile(rows: list[ProfiledLaunch], card: Card) -> None:
    columns = ("operator", "kernel", "grid", "times", "µs", "held by", "of read", "coal.", "lanes")
    table = Table(*columns, "loads", "conflicts", "resident", "waits at", box=None)
    for row in rows:
        counts, told = row.launch.counts, row.prediction
        if not counts or not told:
            continue
        table.add_row(
            *(row.case, row.launch.kernel, grid_of(row), str(row.times)),
            *(f"{told.microseconds:.2f}", told.limit, f"{row.share_of_bandwidth(card):.0%}"),
            *(f"{counts.coalescing:.0%}", f"{counts.active_lanes:.1f}"),
            *(f"{counts.loads_in_flight:.1f}", str(counts.bank_conflicts)),
            *(f"{row.occupancy.blocks} ({row.occupancy.limit})", row.waits_at),
        )
    print_table(table, rows)
    for row in rows:
        for found in row.obstacles(card)[:MAX_OBSTACLES]:
            place = f", {found.place}" if found.place else ""
            click.echo(f"{row.case}, {row.launch.kernel}: {found.what}{place}: {found.detail}")
    for case in dict.fromkeys(row.case for row in rows if row.times > 1):
        print_sum(case, [row for row in rows if row.case == case], card)
    click.echo(
        f"predicted for {card.name}, memory cold; {card.gap} µs between two launches not counted"
    )


def print_sum(case: str, rows: list[ProfiledLaunch], card: Card) -> None:
    """Print what a step takes, with the gaps between its launches."""
    count = sum(row.times for row in rows)
    kernels = sum(row.times * row.microseconds for row in rows)
    whole = kernels + count * card.gap
    click.echo(
        f"{case}: {count} launches, {kernels:,.0f} µs of kernels and {whole - kernels:,.0f} of "
        f"gaps: {whole:,.0f} µs, {1e6 / whole:,.0f} steps a second without the host's work"
    )


def grid_of(row: ProfiledLaunch) -> str:
    return "×".join(map(str, row.launch.grid))


def print_table(table: Table, rows: Iterable[ProfiledLaunch]) -> None:
    Console(width=200, highlight=False).print(table)
    if any(row.resources is None for row in rows):
        click.echo(
            "registers are not known, and do not limit occupancy here: there is no ptxas; "
            "pip install 'cullama[ptx]' brings it"
        )
