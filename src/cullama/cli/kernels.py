"""`cullama kernels`: which kernels there are, and how fast each should be, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from . import kernels_check
from .log import show_log

if TYPE_CHECKING:
    from ..emulation.timing.cards import Card
    from ..emulation.timing.profile import ProfiledLaunch

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
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group("kernels", short_help="List, check and profile CUDA kernels, without a GPU.")
def command() -> None:
    """List the CUDA kernels, check your own, and predict their speed, on the emulated GPU.

    An operator is named as `cullama doctor` names it: attention, "attention, decode", linear …
    """


command.add_command(kernels_check.command)


@command.command("list", short_help="Which kernels each operator launches.")
@operators_argument
@card_option
@dtype_option
@model_option
@json_option
def list_kernels(
    operators: tuple[str, ...], card: str, dtype: str, model: str | None, as_json: bool
) -> None:
    """List operators with their kernels, files, launch shapes and, given ptxas, registers."""
    from ..doctor.kernels.profile import profile
    from ..emulation.timing.cards import card_named

    show_log(quiet=as_json)
    chosen = card_named(card)
    rows = list(
        profile(operators, chosen, dtype, model, is_counted=False, announce=announcer(as_json))
    )
    if as_json:
        click.echo(json.dumps([row.as_json(chosen) for row in rows]))
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
    print_table(table, [*rows])


@command.command("profile", short_help="Counters and predicted times.")
@operators_argument
@card_option
@dtype_option
@model_option
@json_option
def profile_kernels(
    operators: tuple[str, ...], card: str, dtype: str, model: str | None, as_json: bool
) -> None:
    """Run operators' kernels on the emulated GPU, count, and predict their time on a card.

    Rows are sorted by predicted time. The prediction is a model, stated in the manual, and not a
    measurement: what holds a kernel back, and which of two is faster, is what it is for.
    """
    from ..doctor.kernels.profile import profile
    from ..emulation.timing.cards import card_named

    show_log(quiet=as_json)
    chosen = card_named(card)
    rows = list(profile(operators, chosen, dtype, model, announce=announcer(as_json)))
    rows.sort(key=lambda row: -(row.prediction.microseconds if row.prediction else 0))
    if as_json:
        click.echo(json.dumps([row.as_json(chosen) for row in rows]))
        return
    print_profile(rows, chosen)


def announcer(is_quiet: bool) -> Callable[[str], None]:
    """Return what prints a line about the work at hand on standard error."""

    def announce(text: str) -> None:
        if not is_quiet:
            click.echo(text, err=True)

    return announce


def print_profile(rows: list[ProfiledLaunch], card: Card) -> None:
    columns = ("operator", "kernel", "grid", "µs", "held by", "of read", "coal.", "lanes")
    table = Table(*columns, "loads", "conflicts", "resident", "waits at", box=None)
    for row in rows:
        counts, told = row.counts, row.prediction
        if not counts or not told:
            continue
        table.add_row(
            *(row.case, row.launch.kernel, grid_of(row)),
            *(f"{told.microseconds:.2f}", told.limit, f"{row.share_of_bandwidth(card):.0%}"),
            *(f"{counts.coalescing:.0%}", f"{counts.active_lanes:.1f}"),
            *(f"{counts.loads_in_flight:.1f}", str(counts.bank_conflicts)),
            *(f"{row.occupancy.blocks} ({row.occupancy.limit})", row.waits_at),
        )
    print_table(table, rows)
    click.echo(
        f"predicted for {card.name}, all of memory cold; {card.gap} µs between launches not counted"
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
