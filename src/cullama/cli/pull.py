"""`cullama pull`: download models before their first use."""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import ModelNotFoundError
from .log import show_log
from .progress import ProgressBar

DEFAULT = "the default model"


@click.command("pull", short_help="Download models.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--update", is_flag=True, help="Ask the hub for newer versions of cached models.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the paths.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, at the end.")
def command(names: tuple[str, ...], update: bool, quiet: bool, as_json: bool) -> int:
    """Download models and print their paths; without a NAME, the default model.

    \b
    owner/name                 a repository on the Hugging Face hub
    owner/name:Q4_K_M          its GGUF file with this quantisation
    owner/name:folder/a.gguf   that GGUF file
    owner/name@revision        a branch, tag or commit, with any of the above

    After an interruption, the same command continues the download. The token for private models
    is taken from HF_TOKEN or from `hf auth login`.
    """
    show_log(quiet)
    pulled = []
    for name in names or (None,):
        pulled.append(_pull(name, update, quiet))
        if not as_json:
            click.echo(pulled[-1]["path"])
    if as_json:
        click.echo(json.dumps({"models": pulled}))
    return 0


def _pull(name: str | None, update: bool, quiet: bool) -> dict[str, Any]:
    from ..hub import resolve_model

    if name == "":
        raise ModelNotFoundError("a model's name is empty; leave it out for the default model")
    title = name or DEFAULT
    download = _Download(title, quiet)
    try:
        with download.bar:
            path = resolve_model(name, download, update=update)
    except KeyboardInterrupt:
        kept = "; the same command continues the download" if name else ""
        _say(f"\n{title}: interrupted{kept}", quiet)
        raise click.exceptions.Exit(130) from None
    _say(f"{title}: {'fetched' if download.has_fetched else 'already here'}", quiet)
    return {"name": name, "path": str(path), "fetched": download.has_fetched}


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        click.secho(line, dim=True, err=True)


class _Download:
    """Draws the progress of a download, and records whether there was one."""

    def __init__(self, title: str, quiet: bool) -> None:
        self.bar = ProgressBar(f"fetching {title}", in_bytes=True)
        self._quiet = quiet
        self.has_fetched = False

    def __call__(self, done: int, total: int) -> None:
        self.has_fetched = True
        if not self._quiet:
            self.bar(done, total)
