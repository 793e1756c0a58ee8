"""Defines the options that several commands share: model, device, sampling.

Most values are checked where they are used, by `LLM` and `SamplingParams`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..model.choices import DTYPE_CHOICES

Command = TypeVar("Command", bound=Callable[..., Any])


def _stack(options: list[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Return one decorator that adds all the options."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):  # so that --help lists them in the order written
            command = option(command)
        return command

    return decorate


def check_backend(context: click.Context, option: click.Parameter, name: str) -> str:
    if not re.fullmatch("auto|cpu(:[a-z0-9]+)?|cuda(:[0-9]+)?|emulated", name):
        known = "auto, cpu, cpu:numpy, cuda, cuda:1, emulated …"
        raise click.BadParameter(f"{name!r}, expected one of {known}")
    return name


device_options = _stack(
    [
        click.option(
            "--backend",
            metavar="[auto|cpu|cpu:KERNELS|cuda|cuda:N|emulated]",
            callback=check_backend,
            default="auto",
            show_default=True,
            help="Device; auto takes a GPU that can be used, else the CPU. KERNELS: numpy, or an "
            "instruction set, such as avx2. emulated: the GPU's kernels on the CPU, slowly.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(list(DTYPE_CHOICES)),
            default="auto",
            show_default=True,
            help="Type of weights and KV cache; sums are always float32. On the CPU, auto keeps "
            "each weight as its file has it.",
        ),
        click.option(
            "--threads",
            type=int,
            metavar="N",
            help="CPU threads; not for cuda and emulated.  [default: physical cores]",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help="Bit-identical results in any batch and chunking; slower for large batches.",
        ),
    ]
)

model_options = _stack(
    [
        click.option(
            "-m",
            "--model",
            metavar="NAME",
            help="A folder with safetensors, a GGUF file, or a hub id: owner/name, "
            "owner/name:Q4_K_M, owner/name@revision.  [default: SmolLM2-135M-Instruct]",
        ),
        device_options,
        click.option(
            "-c",
            "--context",
            "--ctx-size",
            "context_length",
            type=int,
            metavar="N",
            help="Context length, in tokens.",
        ),
        click.option(
            "--cache-tokens",
            type=int,
            metavar="N",
            help="Tokens of the KV cache, all requests together.  [default: what fits a quarter of "
            "the memory]",
        ),
        click.option(
            "--keep-converted/--no-keep-converted",
            default=True,
            show_default=True,
            help="Keep a GGUF's converted weights on disk, to load faster the next time.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Do not print model and device."),
    ]
)

selection_options = _stack(
    [
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N only."
        ),
        click.option(
            "--sample", type=click.IntRange(min=1), metavar="N", help="Take N at random, by --seed."
        ),
    ]
)

shape_option = click.option(
    "--config", "shape", metavar="NAME", help="A known model shape, with random weights."
)

max_tokens_option = click.option(
    "-n",
    "--max-tokens",
    "--n-predict",
    "max_tokens",
    type=int,
    metavar="N",
    help="Tokens to generate at most; -1: all that the context has room for.  [default: 256]",
)

other_sampling_options = _stack(
    [
        click.option(
            "-t",
            "--temperature",
            "--temp",
            "temperature",
            callback=lambda context, option, value: _temperature(value),
            type=float,
            default=0.8,
            show_default=True,
            help="0 is greedy: always the likeliest token.",
        ),
        click.option(
            "--top-k",
            type=int,
            default=0,
            show_default=True,
            help="Sample from the K likeliest tokens; 0 or -1 from all.",
        ),
        click.option(
            "--top-p",
            type=float,
            default=0.95,
            show_default=True,
            help="Sample from the likeliest tokens that reach this probability together.",
        ),
        click.option(
            "--min-p",
            type=float,
            default=0.0,
            show_default=True,
            help="Sample from tokens with at least this share of the likeliest's probability.",
        ),
        click.option(
            "--repetition-penalty",
            "--repeat-penalty",
            "repetition_penalty",
            type=float,
            default=1.0,
            show_default=True,
            help="Above 1, tokens in prompt and text become less likely.",
        ),
        click.option(
            "--presence-penalty",
            type=float,
            default=0.0,
            show_default=True,
            help="Subtracted from the logit of every token in the text.",
        ),
        click.option(
            "--frequency-penalty",
            type=float,
            default=0.0,
            show_default=True,
            help="Subtracted from a token's logit for each time it is in the text.",
        ),
        click.option(
            "-s", "--seed", type=int, help="The same seed gives the same text; -1 draws one."
        ),
        click.option(
            "--stop",
            multiple=True,
            metavar="TEXT",
            callback=lambda context, option, values: tuple(map(unescaped, values)),
            help=r"Stop before this text; \n, \t, \u1234 and \\ in it are read as in Python.",
        ),
        click.option(
            "--stop-token-id",
            "stop_token_ids",
            type=int,
            multiple=True,
            metavar="ID",
            help="Stop at this token.",
        ),
        click.option(
            "--logit-bias",
            multiple=True,
            metavar="ID=BIAS",
            callback=lambda context, option, values: dict(map(_bias, values)),
            help="Add BIAS to a token's logit.",
        ),
        click.option(
            "--logprobs",
            type=int,
            metavar="K",
            help="With --json: the K likeliest tokens of each step.",
        ),
        click.option(
            "--prompt-logprobs",
            type=int,
            metavar="K",
            help="With --json: the log-probability of each token of the prompt, and the K likeliest"
            " in its place. With -n 0, nothing is generated.",
        ),
        click.option("--n", "n", type=int, default=1, show_default=True, help="Texts to generate."),
        click.option(
            "--include-stop", is_flag=True, help="Keep the stop text, or stop token, in the text."
        ),
        click.option("--ignore-eos", is_flag=True, help="Continue past the end token."),
        click.option(
            "--speculation",
            type=int,
            default=0,
            show_default=True,
            metavar="K",
            help="Draft tokens a step at most, where the text repeats itself; it stays the same.",
        ),
        click.option(
            "--json-schema",
            metavar="FILE",
            callback=lambda context, option, value: _schema(value),
            help="Write JSON that is valid under the schema in this file (or given here: {…}).",
        ),
    ]
)

sampling_options = _stack([max_tokens_option, other_sampling_options])

SAMPLING_NAMES = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "logprobs",
    "prompt_logprobs",
    "n",
    "include_stop",
    "ignore_eos",
    "speculation",
    "json_schema",
)


_ESCAPE = re.compile(r"\\(?:([nrt\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def unescaped(text: str) -> str:
    """Replace escapes, which shells leave as they are: `\\n` by a newline. Others stay."""

    def meant(found: re.Match[str]) -> str:
        letter, byte, code = found.groups()
        return _ESCAPED[letter] if letter else chr(int(byte or code, 16))

    return _ESCAPE.sub(meant, text)


def _temperature(value: float) -> float:
    if value >= 4 and value.is_integer():
        click.echo(f"temperature {value:g}; -t is no count of threads, --threads is", err=True)
    return value


def _schema(value: str | None) -> str | None:
    """Return the schema itself, as JSON."""
    if value is None or value.lstrip().startswith("{"):
        return value
    from ..benchmark.evaluation.task_file import read_text

    return read_text(Path(value))


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected ID=BIAS, for example 42=-1.5") from None


def pop(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Remove some of the options and return them."""
    return {name: options.pop(name) for name in names}
