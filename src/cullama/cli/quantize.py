"""`cullama quantize`: writes a model in fewer bits as a GGUF file, and shows what that loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NoTokenizerError, UsageError
from ..model.choices import GGUF_TYPES
from .loading import load
from .log import show_log
from .models import in_words
from .options import check_backend, shape_option
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..checkpoint.checkpoint import Checkpoint
    from ..inspect.divergence import Divergence
    from ..llm import LLM
    from ..quantize import Quantized


@click.command("quantize", short_help="Write a model in fewer bits, as GGUF.")
@click.argument("model", required=False, metavar="[MODEL]")
@click.option(
    "--type",
    "dtype",
    type=click.Choice(GGUF_TYPES[::-1], case_sensitive=False),
    required=True,
    help="The type of its matrices.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write.  [default: NAME-TYPE.gguf]",
)
@click.option("--force", is_flag=True, help="Replace a file of that name.")
@click.option("--no-tokenizer", is_flag=True, help="Leave out tokenizer and chat template.")
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Run model and file on a text, and show the loss.",
)
@click.option(
    "--text",
    "text_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text of the check, instead of a page of prose, tables and code.",
)
@shape_option
@click.option(
    "--backend",
    metavar="[auto|cpu|cpu:KERNELS|cuda|cuda:N|emulated]",
    callback=check_backend,
    default="auto",
    show_default=True,
    help="Where the check runs.",
)
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: physical cores]")
@click.option("-q", "--quiet", is_flag=True, help="No notes, and no lines about models.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, at the end.")
def command(
    model: str | None,
    dtype: str,
    output: Path | None,
    force: bool,
    no_tokenizer: bool,
    check: bool,
    text_file: Path | None,
    shape: str | None,
    quiet: bool,
    as_json: bool,
    **device: Any,
) -> int:
    """Write MODEL to a GGUF file in which matrices take fewer bits, and show what that loses.

    MODEL is named as for --model: a folder, a GGUF file, a hub id, or nothing for the default
    model. Vectors stay float32, the matrix that predicts tokens keeps 8 bits, and matrices whose
    rows are no multiple of 32 become F16.

    The loss is that of the file against the model, both computed in float32, on a page of text.
    """
    from ..quantize import file_name, quantize

    show_log(quiet)
    if text_file is not None and not check:
        raise UsageError("--text is for the check, and --no-check leaves it out: give one of them")
    text = None if text_file is None else _read_text(text_file)
    source = _open_source(model, shape)
    path = output or Path(file_name(source.path, dtype))
    with ProgressBar(f"writing {path.name}") as progress:
        written = quantize(
            source,
            path,
            dtype,
            overwrite=force,
            has_tokenizer=not no_tokenizer,
            progress=progress,
        )
    if not as_json:
        _show(written, quiet)
    loss = _loss(source, path, text, quiet, device) if check else None
    if as_json:
        click.echo(json.dumps({**written.as_json(), "loss": loss and loss.as_json()}))
    elif loss is not None:
        click.echo(_in_words(loss))
    return 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from None


def _open_source(model: str | None, shape: str | None) -> Checkpoint:
    from ..benchmark.shapes import random_checkpoint
    from ..checkpoint.opening import open_checkpoint
    from ..hub import resolve_model

    if shape is None:
        with ProgressBar(f"fetching {model or 'the default model'}", in_bytes=True) as progress:
            return open_checkpoint(resolve_model(model, progress))
    if model is not None:
        raise UsageError("--config takes random weights, MODEL a file: give one of them")
    return random_checkpoint(shape)


def _show(written: Quantized, quiet: bool) -> None:
    types = ", ".join(f"{count} {kind}" for kind, count in written.types.items())
    size = f"{in_words(written.size)}, {written.bits:.2f} bits a parameter"
    click.echo(f"{written.path}: {size}; tensors: {types}")
    for note in () if quiet else written.notes:
        click.secho(note, dim=True, err=True)


def _loss(
    source: Checkpoint, path: Path, text: str | None, quiet: bool, device: dict[str, Any]
) -> Divergence | None:
    from ..quantize import measured_loss, sample_text

    def open_model(path: Path, context_length: int) -> LLM:
        options = {**device, "context_length": context_length, "cache_tokens": context_length}
        return load(str(path), dtype="float32", keep_converted=False, quiet=quiet, **options)

    page = sample_text() if text is None else text
    try:
        return measured_loss(source, path, page, open_model, ProgressBar)
    except NoTokenizerError:
        if text is not None:
            raise
        if not quiet:
            click.secho("no check: the model has no tokenizer to read a text", dim=True, err=True)
        return None


def _in_words(loss: Divergence) -> str:
    before, after = loss.perplexities
    return (
        f"over {loss.tokens:,} tokens: divergence {loss.mean:.2g} nats a token "
        f"(at most {loss.largest:.2g}), the same likeliest token for {loss.same_top:.2%}, "
        f"perplexity {before:.2f} → {after:.2f}"
    )
