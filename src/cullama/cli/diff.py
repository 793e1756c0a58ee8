"""`cullama diff`: run one prompt through two settings and compare them operator by operator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ..errors import CullamaError, UsageError
from .loading import load
from .options import check_backend
from .standard_input import DEFAULT_PROMPT, read_prompt
from .text_command import TextCommand

if TYPE_CHECKING:
    from ..inspect.diff import Comparison
    from ..llm import LLM

OptionPair: TypeAlias = tuple[Any, Any]
Convert: TypeAlias = Callable[..., Any]  # (text, option, context) → the value
Callback: TypeAlias = Callable[[click.Context, click.Parameter, "str | None"], OptionPair]

# Options with a value for each side: those of `LLM`, and those of `Side`.
LOADING = {
    "models": "model",
    "backends": "backend",
    "dtypes": "dtype",
    "threads": "threads",
    "deterministic": "deterministic",
}
RUNNING = {"batches": "batch", "chunks": "chunk"}


def _pair(convert: Convert) -> Callback:
    """Return a callback that parses `A,B`, a value for each side, or one value for both."""

    def pair(context: click.Context, option: click.Parameter, text: str | None) -> OptionPair:
        if text is None:
            return None, None
        parts = text.split(",")
        if len(parts) > 2:
            raise click.BadParameter(f"{text!r}, expected one value, or two with a comma between")
        values = [convert(part.strip(), option, context) for part in parts]
        return values[0], values[-1]

    return pair


def _threads(text: str, option: click.Parameter, context: click.Context) -> int | None:
    integer: Any = click.INT
    return integer.convert(text, option, context) if text else None


def _tokens(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected token ids like 1,80,147") from None


@click.command("diff", short_help="Compare two settings, operator by operator.", cls=TextCommand)
@click.argument("prompt", nargs=-1, metavar="[PROMPT]…")
@click.option(
    *("-m", "--models", "--model"),
    callback=_pair(lambda name, option, context: name or None),
    metavar="NAME[,NAME]",
    help="Folders with safetensors, GGUF files or hub ids; none: SmolLM2-135M-Instruct.",
)
@click.option(
    *("--backends", "--backend"),
    callback=_pair(lambda name, option, context: check_backend(context, option, name)),
    default="auto",
    show_default=True,
    metavar="NAME[,NAME]",
    help="Devices, as --backend of other commands names them.",
)
@click.option(
    *("--dtypes", "--dtype"),
    callback=_pair(click.Choice(["auto", "float32", "float16", "bfloat16"]).convert),
    default="auto",
    show_default=True,
    metavar="TYPE[,TYPE]",
    help="Types of weights and KV cache.",
)
@click.option(
    "--threads",
    callback=_pair(_threads),
    metavar="N[,N]",
    help="CPU threads.  [default: physical cores]",
)
@click.option(
    "--deterministic",
    callback=_pair(click.BOOL.convert),
    default="no",
    show_default=True,
    metavar="yes|no[,yes|no]",
    help="Bit-identical results in any batch and chunking.",
)
@click.option(
    *("--batches", "--batch"),
    callback=_pair(click.IntRange(1, 256).convert),
    default="1",
    show_default=True,
    metavar="N[,N]",
    help="Sequences in a pass: the prompt, and others of the same length.",
)
@click.option(
    *("--chunks", "--chunk"),
    callback=_pair(click.IntRange(min=0).convert),
    default="0",
    show_default=True,
    metavar="N[,N]",
    help="Tokens of the prompt in a pass; 0 takes all.",
)
@click.option("--tokens", callback=_tokens, metavar="ID,ID…", help="Token ids, instead of PROMPT.")
@click.option(
    "--detail",
    is_flag=True,
    help="Compare every operator, with composite ones spelled out in smaller ones; a backend's own"
    " versions of those are not run.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="Relative error allowed.  [default: 2e-5 for float32, 4e-3 for float16, 3.2e-2 for"
    " bfloat16; the coarser of the two sides']",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page with charts, too.",
)
@click.option(
    "--keep-converted/--no-keep-converted",
    default=True,
    show_default=True,
    help="Keep a GGUF's converted weights on disk, to load faster the next time.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print models and devices.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(
    prompt: tuple[str, ...],
    tokens: list[int] | None,
    detail: bool,
    tolerance: float | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run PROMPT with two settings, and compare all operators.

    A `-` in PROMPT stands for standard input; text from a pipe needs none.

    An option with two values, such as `--dtypes float32,bfloat16`, sets the sides apart; one
    value is for both. The first side is the reference.

    "error" is an operator's own, given the first side's inputs: the larger of its worst token's
    RMS error and an eighth of its worst element's, relative to that token. For "accumulated",
    errors travel on through the layers.

    Exits with 0 where every operator is within the tolerance, 1 where the sides differ (or
    something fails), 2 after misuse.
    """
    if prompt and tokens is not None:
        raise UsageError("there is a PROMPT and --tokens, expected one of them")
    names = LOADING | RUNNING
    first, second = ({names[option]: options[option][i] for option in names} for i in (0, 1))
    if first == second:
        raise UsageError(
            "both sides are the same, expected an option with two values, for example "
            "--dtypes float32,bfloat16"
        )
    given: str | list[int] | None = tokens
    if given is None:
        given = read_prompt(prompt, "the prompt", options["quiet"])
    if given is None:
        given = DEFAULT_PROMPT
    common = {"keep_converted": options["keep_converted"], "quiet": options["quiet"]}
    comparison = _compare(first, second, given, detail, tolerance, common)
    if html is not None:
        try:
            html.write_text(comparison.page(), encoding="utf-8")
        except OSError as error:
            raise CullamaError(f"cannot write {html}: {error.strerror or error}") from None
    click.echo(json.dumps(comparison.as_json()) if as_json else str(comparison))
    return 0 if comparison.agree else 1


def _compare(
    first: dict[str, Any],
    second: dict[str, Any],
    prompt: str | list[int],
    is_detailed: bool,
    tolerance: float | None,
    common: dict[str, Any],
) -> Comparison:
    """Compare two sides with one model in memory at a time, loaded once where both share it."""
    from ..inspect.diff import Side, compare, record

    llm = _load(first, common)
    try:
        recording = record(Side(llm, first["batch"], first["chunk"]), prompt, is_detailed)
        if any(first[name] != second[name] for name in LOADING.values()):
            llm.close()
            llm = _load(second, common)
        return compare(recording, Side(llm, second["batch"], second["chunk"]), tolerance)
    finally:
        llm.close()


def _load(side: dict[str, Any], common: dict[str, Any]) -> LLM:
    options = {name: side[name] for name in LOADING.values()}
    return load(**options, **common, cache_tokens=1)  # comparisons run in KV caches of their own
