"""Draws a completion at the end of a notebook's cell: its tokens, each with its probability.

It is handed what a completion holds; it imports nothing that generates one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import exp
from typing import Protocol

from ..sampling.params import TokenLogprobs
from .tokens import SOFT, attribute, listed, scale, shade, visible

HOW_TO_ASK = "SamplingParams(logprobs=5) shows how sure the model was of each token"


class Answer(Protocol):
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


def completion_html(answers: Sequence[Answer]) -> str:
    """HTML of a completion, and of its alternatives where there are any."""
    shown = "".join(
        _answer(answer, f"{number} of {len(answers)} · " if len(answers) > 1 else "")
        for number, answer in enumerate(answers, 1)
    )
    key = f"{scale()} hover for what else it might have been"
    legend = HOW_TO_ASK if answers[0].logprobs is None else key
    return f'<div>{shown}<div style="{SOFT};font-size:85%">{legend}</div></div>'


def _answer(answer: Answer, which: str) -> str:
    tokens = "".join(_token(each, answer) for each in answer.logprobs or ())
    body = escape(answer.text) if answer.logprobs is None else tokens
    text_style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.8"
    return (
        f'<div dir="auto" style="{text_style}">{body or "<i>no text</i>"}</div>'
        f'<div style="{SOFT};font-size:85%;margin:.2em 0 .8em">{which}{_facts(answer)}</div>'
    )


def _token(logprobs: TokenLogprobs, answer: Answer) -> str:
    texts, share = answer.token_texts, exp(logprobs.logprob)
    text = texts[logprobs.token_id]
    title = f"{listed([(text, share)])}\n\n"
    title += listed((texts[token], exp(logprob)) for token, logprob in logprobs.top)
    shown = escape(visible(text)).replace("⏎", "⏎\n")
    return (
        f'<span title="{attribute(title.rstrip())}" style="{_TOKEN};{shade(share)}">{shown}</span>'
    )


# A line between neighbours that are equally likely.
_TOKEN = "border-radius:3px;box-shadow:inset -1px 0 rgba(128,128,128,.35);padding:.15em 0"


def _facts(answer: Answer) -> str:
    tokens, prompt = len(answer.token_ids), answer.prompt_tokens
    cached = f", {answer.cached_tokens} of them cached" if answer.cached_tokens else ""
    rate = answer.decode_rate
    facts = [
        answer.finish_reason,
        _count(tokens),
        *([f"{rate:.1f} tok/s"] if rate else []),
        f"prompt: {_count(prompt)}{cached}",
        f"seed {answer.seed}",
    ]
    return " · ".join(map(escape, facts))


def _count(tokens: int) -> str:
    return f"{tokens} token{'' if tokens == 1 else 's'}"
