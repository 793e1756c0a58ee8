"""HTML of a completion: its tokens, each with its probability and its alternatives.

It is handed a finished or partial completion; it generates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import exp
from typing import Protocol

from ..sampling.params import TokenLogprobs
from .tokens import SOFT, attribute, listed, scale, shade, visible

HOW_TO_ASK = "SamplingParams(logprobs=5) shows how sure the model was of each token"


class DrawnCompletion(Protocol):
    """What is drawn of a `Completion`."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def logprobs(self) -> Sequence[TokenLogprobs] | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def token_texts(self) -> Mapping[int, str]: ...
    @property
    def decode_rate(self) -> float: ...


def completion_html(completions: Sequence[DrawnCompletion]) -> str:
    """Draw a completion and its alternatives, if there are any."""
    count = len(completions)
    shown = "".join(
        _completion(completion, f"{number} of {count} · " if count > 1 else "")
        for number, completion in enumerate(completions, 1)
    )
    key = f"{scale()} hover for the alternatives"
    legend = HOW_TO_ASK if completions[0].logprobs is None else key
    return f'<div>{shown}<div style="{SOFT};font-size:85%">{legend}</div></div>'


def _completion(completion: DrawnCompletion, which: str) -> str:
    tokens = "".join(_token(each, completion) for each in completion.logprobs or ())
    body = escape(completion.text) if completion.logprobs is None else tokens
    text_style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.8"
    cached, rate = completion.cached_tokens, completion.decode_rate
    prompt = _count(completion.prompt_tokens) + (f", {cached} of them cached" if cached else "")
    facts = [
        completion.finish_reason,
        _count(len(completion.token_ids)),
        f"{rate:.1f} tok/s" if rate else "",
        f"prompt: {prompt}",
        f"seed {completion.seed}",
    ]
    shown = escape(" · ".join(filter(None, facts)))
    return (
        f'<div dir="auto" style="{text_style}">{body or "<i>no text</i>"}</div>'
        f'<div style="{SOFT};font-size:85%;margin:.2em 0 .8em">{which}{shown}</div>'
    )


def _token(logprobs: TokenLogprobs, completion: DrawnCompletion) -> str:
    texts, share = completion.token_texts, exp(logprobs.logprob)
    text = texts[logprobs.token_id]
    title = f"{listed([(text, share)])}\n\n"
    title += listed((texts[token], exp(logprob)) for token, logprob in logprobs.top)
    shown = escape(visible(text)).replace("⏎", "⏎\n")
    return (
        f'<span title="{attribute(title.rstrip())}" style="{_TOKEN};{shade(share)}">{shown}</span>'
    )


# A line between neighbours that are equally likely.
_TOKEN = "border-radius:3px;box-shadow:inset -1px 0 rgba(128,128,128,.35);padding:.15em 0"


def _count(tokens: int) -> str:
    return f"{tokens} token{'' if tokens == 1 else 's'}"
