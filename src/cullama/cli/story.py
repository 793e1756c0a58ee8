"""`cullama story`: continue a text, as it is written."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .loading import load
from .options import SAMPLING_NAMES, model_options, sampling_options, take
from .standard_input import read_standard_input
from .terminal import printable

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling.params import SamplingParams
    from ..text.completion import Completion

DEFAULT_PROMPT = "Once upon a time"


@click.command("story", short_help="Tell a story.")
@click.argument("prompt", required=False, metavar="[PROMPT]")
@model_options
@sampling_options
@click.option("--stats", is_flag=True, help="Say how fast it was.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, at the end.")
def command(prompt: str | None, stats: bool, as_json: bool, **options: Any) -> int:
    """Continue PROMPT, or "Once upon a time"; `-` reads it from standard input.

    Ctrl-C ends the story where it is.
    """
    from ..sampling.params import SamplingParams

    params = SamplingParams(**take(options, SAMPLING_NAMES))
    if params.logprobs is not None and not as_json:
        raise UsageError("--logprobs shows in --json output only; add --json")
    text = read_prompt(prompt)
    llm = load(**options)
    params = replace(params, stop=(*params.stop, *_spelled_ends(llm, params)))
    completion = _tell(llm, text, params, is_silent=as_json)
    if as_json:
        click.echo(json.dumps(_as_json(llm, text, completion)))
    if stats:
        click.secho(_stats(llm, completion), dim=True, err=True)
    return 130 if completion.finish_reason == "cancelled" else 0


def read_prompt(prompt: str | None) -> str:
    """The text itself; `-` is what standard input holds, and nothing the usual beginning."""
    if prompt is None:
        return DEFAULT_PROMPT
    return read_standard_input("the prompt") if prompt == "-" else prompt


def _spelled_ends(llm: LLM, params: SamplingParams) -> list[str]:
    """End tokens as text: models trained on texts that spell them out write them out, too."""
    if params.ignore_eos:
        return []
    ends = (llm.tokenizer.decode([end], skip_special_tokens=False) for end in llm.config.eos_ids)
    return [text for end in ends if (text := end.strip())]


def _tell(llm: LLM, prompt: str, params: SamplingParams, is_silent: bool) -> Completion:
    """Print prompt and story as it comes; the first of several, then the others."""
    if params.n > 1:
        completion = llm.generate(prompt, params)
        if not is_silent:
            for one in (completion, *completion.alternatives):
                click.echo(f"{printable(prompt + one.text)}\n")
        return completion
    stream = llm.stream(prompt, params)
    try:
        _write(prompt, is_silent)
        for piece in stream:
            _write(piece, is_silent)
    except KeyboardInterrupt:
        stream.close()
    _write("\n", is_silent)
    return stream.completion


def _write(piece: str, is_silent: bool) -> None:
    if not is_silent:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()


def completion_as_json(completion: Completion) -> dict[str, Any]:
    tokens = len(completion.token_ids)
    values = asdict(completion)
    if completion.logprobs is None:
        del values["token_texts"]  # of the ids in logprobs
    values["decode_tokens_per_second"] = round(completion.timings.decode_rate(tokens), 2)
    return values


def _as_json(llm: LLM, prompt: str, completion: Completion) -> dict[str, Any]:
    return {"prompt": prompt, **completion_as_json(completion), "model": llm.description}


def _stats(llm: LLM, completion: Completion) -> str:
    timings = completion.timings
    rate = completion.prompt_tokens / timings.first_token if timings.first_token else 0.0
    answers = (completion, *completion.alternatives)
    tokens = sum(len(one.token_ids) for one in answers)
    decode = completion.timings.decode_rate(tokens // len(answers)) * len(answers)
    return (
        f"prompt: {completion.prompt_tokens} tokens in {timings.first_token:.3f} s,"
        f" {rate:.0f} tok/s"
        f" · answer: {tokens} tokens, {decode:.1f} tok/s"
        f"{_guesses(llm)} · {completion.finish_reason} · seed {completion.seed}"
    )


def _guesses(llm: LLM) -> str:
    metrics = llm.engine.metrics
    if not metrics.guessed_tokens:
        return ""
    return f" · {metrics.right_guesses} of {metrics.guessed_tokens} guesses right"
