"""`cullama story`: continue a text, printed as it is generated."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .completion_json import completion_as_json, refuse_logprobs
from .loading import load_with_sampling
from .options import model_options, sampling_options
from .sampling import SamplingOptions
from .standard_input import DEFAULT_PROMPT, read_prompt
from .stats import compiling_line
from .terminal import printable
from .text_command import TextCommand

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling.params import SamplingParams
    from ..text.completion import Completion


@click.command("story", short_help="Tell a story.", cls=TextCommand)
@click.argument("prompt", nargs=-1, metavar="[PROMPT]…")
@model_options
@sampling_options
@click.option(
    "--no-special",
    is_flag=True,
    help="Read control tokens that PROMPT spells, such as <|im_end|>, as plain text.",
)
@click.option("--stats", is_flag=True, help="Print the speed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, at the end.")
def command(
    prompt: tuple[str, ...], no_special: bool, stats: bool, as_json: bool, **options: Any
) -> int:
    """Continue PROMPT, or "Once upon a time"; `-` in it stands for standard input.

    Text from a pipe needs no `-`: it is the prompt, or comes behind PROMPT.

    Ctrl-C stops the story and keeps what is written.
    """
    sampling = SamplingOptions.pop_from(options)
    refuse_logprobs(sampling.params, as_json)
    text = read_prompt(prompt, "the prompt", options["quiet"])
    text = DEFAULT_PROMPT if text is None else text
    llm, params = load_with_sampling(sampling, **options)
    if params.constraint is None:
        params = replace(params, stop=(*params.stop, *_spelled_end_tokens(llm, params)))
    completion = _generate(llm, text, params, allow_special=not no_special, is_silent=as_json)
    if as_json:
        result = {"prompt": text, **completion_as_json(completion), "model": llm.description}
        click.echo(json.dumps(result))
    if stats:
        click.secho(_stats(llm, completion), dim=True, err=True)
    return 130 if completion.finish_reason == "cancelled" else 0


def _spelled_end_tokens(llm: LLM, params: SamplingParams) -> list[str]:
    """Return the end tokens' texts as stop strings: models trained on texts that spell them
    generate them letter by letter, too."""
    if params.ignore_eos:
        return []
    ends = (llm.tokenizer.decode([end], skip_special_tokens=False) for end in llm.config.eos_ids)
    return [text for end in ends if (text := end.strip())]


def _generate(
    llm: LLM, prompt: str, params: SamplingParams, allow_special: bool, is_silent: bool
) -> Completion:
    """Print prompt and text as it is generated; several texts one after the other, at the end."""
    if params.n > 1:
        completion = llm.generate(prompt, params, allow_special=allow_special)
        if not is_silent:
            for one in (completion, *completion.alternatives):
                click.echo(f"{printable(prompt + one.text)}\n")
        return completion
    stream = llm.stream(prompt, params, allow_special=allow_special)
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


def _stats(llm: LLM, completion: Completion) -> str:
    """Return one line on prefill and decode speed, and on speculation where it was used."""
    timings, metrics = completion.timings, llm.engine.metrics
    answers = (completion, *completion.alternatives)
    tokens = sum(len(one.token_ids) for one in answers)
    decode = timings.decode_rate(tokens // len(answers)) * len(answers)
    facts = [
        f"prompt: {completion.prompt_tokens} tokens in"
        f" {timings.first_token - timings.compiling:.3f} s,"
        f" {timings.prefill_rate(completion.prompt_tokens):.0f} tok/s",
        f"answer: {tokens} tokens, {decode:.1f} tok/s",
        completion.finish_reason,
        f"seed {completion.seed}",
    ]
    if metrics.draft_tokens:
        drafts = f"{metrics.accepted_tokens} of {metrics.draft_tokens} draft tokens accepted"
        facts.insert(2, drafts)
    return "\n".join(filter(None, (compiling_line(completion), " · ".join(facts))))
