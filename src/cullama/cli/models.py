"""`cullama models`: lists cached models with their sizes, and removes them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..hub.cached import CachedModel

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SPANS = ((86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"))
GAP = "  "
OPTIONAL_COLUMNS = ("used", "kind", "note")  # left out, in this order, on narrow terminals


@click.command("models", short_help="List cached models, or remove them.")
@click.option(
    "--remove", "names", multiple=True, metavar="NAME", help="Remove it; may be repeated."
)
@click.option("-y", "--yes", is_flag=True, help="Remove without asking.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with paths.")
def command(names: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """List the models cached on this machine, named as --model takes them.

    "default" is the model taken where none is named; "converted" are weights of GGUF files as the
    CPU computes with them, which are made again when they are needed. NAME is one of the names
    listed, or owner/name for everything of a repository.
    """
    if names:
        return _remove(names, yes, as_json)
    from ..hub.cached import cached_models

    models = cached_models()
    if as_json:
        click.echo(json.dumps({"models": [{**asdict(m), "path": str(m.path)} for m in models]}))
    else:
        _show(models)
    return 0


# --------------------------------------------------------------------------------------- the table


def _show(models: list[CachedModel]) -> None:
    from ..files.cache_folder import cache_folder
    from ..hub.cache import hub_cache_folder

    if models:
        # Into a pipe or a file, all columns are written.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo("\n".join(table(models, width)))
    else:
        click.secho("nothing is cached; `cullama pull` fetches the default model", err=True)
    total = in_words(sum(model.size for model in models))
    places = f"{hub_cache_folder()} and {cache_folder()}"
    click.secho(f"{len(models)} cached, {total}, in {places}", dim=True, err=True)


def table(models: list[CachedModel], width: int | None) -> list[str]:
    """Return a line for each model, without columns that do not fit; names are never cut."""
    columns = {
        "name": [model.name for model in models],
        "size": [in_words(model.size) for model in models],
        "kind": [model.kind for model in models],
        "used": [ago(model.last_used) for model in models],
        "note": [model.problem or "" for model in models],
    }
    if not any(columns["note"]):
        del columns["note"]
    padded = {}
    for title, cells in columns.items():
        longest = max(map(len, [title, *cells]))
        padded[title] = [cell.ljust(longest) for cell in (title, *cells)]
    padded["size"] = [cell.strip().rjust(len(cell)) for cell in padded["size"]]
    for title in OPTIONAL_COLUMNS:
        if width is not None and len(GAP.join(cells[0] for cells in padded.values())) > width:
            padded.pop(title, None)
    return [GAP.join(cells).rstrip() for cells in zip(*padded.values(), strict=True)]


def in_words(size: int) -> str:
    """Format a number of bytes: "1.2 GB"."""
    for factor, unit in UNITS:
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def ago(moment: float) -> str:
    """Format how long ago a time (seconds since the epoch) was: "3 days ago"."""
    past = time.time() - moment
    for seconds, name in SPANS:
        if (count := int(past // seconds)) > 0:
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "now"


# ------------------------------------------------------------------------------------------- remove


def _remove(names: tuple[str, ...], yes: bool, as_json: bool) -> int:
    from ..hub.cached import removal_of, remove

    # All names are checked before the first model is removed.
    removals = [removal_of(name) for name in names]
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("standard input is not a terminal to ask on; add --yes to remove")
        what = ", ".join(f"{removal.name} ({in_words(removal.size)})" for removal in removals)
        if not click.confirm(f"Remove {what}?", err=True):
            return 1
    for removal in removals:
        remove(removal)
        if not as_json:
            click.echo(f"removed {removal.name}: {in_words(removal.size)}")
    if as_json:
        removed = [{"name": removal.name, "freed": removal.size} for removal in removals]
        click.echo(json.dumps({"removed": removed}))
    return 0
