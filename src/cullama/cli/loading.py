"""Loads a model for a command, with progress bars and one line on model and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .log import show_log
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling.params import SamplingParams
    from .sampling import SamplingOptions


def load(model: Any, quiet: bool, is_short: bool = False, **options: Any) -> LLM:
    """Load a model; `options` are those of `LLM`. `is_short` leaves details out of its line."""
    from ..llm import LLM

    show_log(quiet)
    with (
        ProgressBar(f"fetching {model or 'the default model'}", in_bytes=True) as download,
        ProgressBar("reading weights") as reading,
    ):
        llm = LLM(model, download_progress=download, progress=reading, **options)
    if not quiet:
        line = short_description(llm) if is_short else llm.description
        click.secho(line, dim=True, err=True)
    return llm


def short_description(llm: LLM) -> str:
    """Return the model's name, format and device."""
    format_name, device, *_ = llm.description.removeprefix(f"{llm.name} · ").split(" · ")
    return f"{llm.name} · {format_name} · {device}"


def load_with_sampling(
    sampling: SamplingOptions, quiet: bool, **options: Any
) -> tuple[LLM, SamplingParams]:
    """Load a model; return it and what its generation starts from, said in a line if it is the
    model's own."""
    llm = load(quiet=quiet, **options)
    note = sampling.note(llm)
    if note and not quiet:
        click.secho(note, dim=True, err=True)
    return llm, sampling.starting_params(llm)


def load_or_invent(shape: str | None, **options: Any) -> LLM:
    """Load a model from a file, or make one of a known shape with random weights."""
    if shape is not None:
        from ..benchmark.shapes import random_checkpoint

        if options["model"] is not None:
            raise UsageError("--config runs random weights, --model a file: give one of them")
        options["model"] = random_checkpoint(shape)
    return load(**options)
