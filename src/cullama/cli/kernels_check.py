"""`cullama kernels check`: what is wrong with the kernels of a file, and on which line."""

from __future__ import annotations

import json

import click

from .log import show_log


@click.command("check", short_help="What is wrong with a kernel, by line.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--operator",
    metavar="NAME",
    help="Test kernels as this operator's.  [default: the one that launches a kernel of that name]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def command(context: click.Context, file: str, operator: str | None, as_json: bool) -> None:
    """Compile a CUDA (or PTX) FILE, run its kernels in their operators' tests, name what is wrong.

    A kernel is tested in the place of the one whose name it has, such as rms_norm_f32; so is
    rms_norm_f32__fast, so that a file may have several. It runs on the emulated GPU, in three
    orders of threads, against the operator in float64.
    """
    from ..inspect.kernels.check import check_kernels
    from ..inspect.kernels.source import KernelSourceError, kernel_source

    show_log(quiet=as_json)

    def announce(text: str) -> None:
        if not as_json:
            click.echo(text, err=True)

    try:
        source = kernel_source(file)
    except KernelSourceError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"compiler": None, "kernels": [], "error": str(error)}))
        context.exit(1)
    announce(f"compiled by {source.compiler}" if source.compiler else "PTX, as it is")
    checked = check_kernels(source, operator, announce)
    if as_json:
        click.echo(json.dumps(checked.as_json()))
    else:
        click.echo(checked.as_text())
    context.exit(0 if checked.is_right else 1)
