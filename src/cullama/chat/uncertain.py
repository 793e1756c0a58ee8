"""Finds the tokens of an answer of which the model was least sure, and what it might have said.

One pass over prompt and answer gives the probabilities, whatever the answer was drawn with; what
lies in the KV cache of the prompt is not computed again. Branching there is the session's work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.client import EngineClient, GenerationRequest
from ..sampling.params import SamplingParams, TokenLogprobs
from ..text.token_texts import token_texts
from ..text.tokenizer import Tokenizer, text_behind
from .answer import Turn


@dataclass(frozen=True)
class Candidate:
    """A token that may stand in one place of an answer.

    Attributes:
        text: the token by itself.
        probability: under the model, before bias, temperature and what else the sampler does.
    """

    token_id: int
    text: str
    probability: float


@dataclass(frozen=True)
class UncertainToken:
    """One token of an answer.

    Attributes:
        index: its place in the answer, in tokens.
        before: the answer's text up to it.
        chosen: the token that stands there.
        others: the likeliest of the rest, likeliest first.
    """

    index: int
    before: str
    chosen: Candidate
    others: tuple[Candidate, ...]


def least_sure(
    engine: EngineClient, tokenizer: Tokenizer, turn: Turn, count: int, others: int
) -> list[UncertainToken]:
    """Return the `count` tokens of an answer with the least probabilities, the least first."""
    scored = [*enumerate(_score(engine, turn, others + 1))]
    scored.sort(key=lambda each: (each[1].logprob, each[0]))
    top = scored[:count]
    named = [token for _, each in top for token in (each.token_id, *(it for it, _ in each.top))]
    texts = token_texts(tokenizer, named)

    def candidate(token: int, logprob: float) -> Candidate:
        return Candidate(token, texts[token], math.exp(logprob))

    return [
        UncertainToken(
            index,
            text_behind(tokenizer, turn.prompt.token_ids, turn.answer.token_ids[:index]),
            candidate(each.token_id, each.logprob),
            tuple(candidate(*it) for it in each.top if it[0] != each.token_id)[:others],
        )
        for index, each in top
    ]


def _score(engine: EngineClient, turn: Turn, top: int) -> Sequence[TokenLogprobs]:
    """Return the log-probabilities of the answer's tokens."""
    if not turn.answer.token_ids:
        return ()
    request = GenerationRequest(
        turn.rendered.token_ids,
        SamplingParams(max_tokens=0, prompt_logprobs=top),
        logprobs_start=len(turn.prompt.token_ids),
    )
    [handle] = engine.submit(request)
    try:
        while (new := handle.read()).finish_reason is None:
            handle.wait()
    finally:
        handle.cancel()
    if new.error is not None:
        raise new.error
    return new.prompt_logprobs
