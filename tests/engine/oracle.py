"""What an answer should have been: asked of a model that reads each text whole, from nothing.

It applies bias and temperature, and no other sampling parameter.
`llm.logits` shares no block and keeps none. Its numbers differ from those of a text read in parts
by rounding alone, so a token is right if it is the likeliest, or the one drawn, but for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cullama import LLM, SamplingParams
from cullama.engine.request import Request
from cullama.sampling.params import TokenLogprobs
from cullama.sampling.philox import uniform

Row: TypeAlias = NDArray[np.float32]

MARGIN = 1e-3  # logits nearer to each other than this may change places
SHARE = 1e-4  # … and so far may the borders between the tokens' shares move
LOGPROB = 1e-4


def confirm(cold: LLM, request: Request) -> None:
    """Raises where a token of the answer is not the one."""
    confirm_answer(
        cold, request.prompt, request.answer, request.params, request.seed, request.index
    )
    if request.params.logprobs is not None:
        confirm_logprobs(cold, request.prompt, request.answer, request.logprobs)


def confirm_answer(
    cold: LLM,
    prompt: Sequence[int],
    answer: Sequence[int],
    params: SamplingParams,
    seed: int = 0,
    index: int = 0,
) -> None:
    for position, row in enumerate(_rows(cold, prompt, answer)):
        token = answer[position]
        for biased, bias in params.logit_bias.items():
            row[biased] += bias
        if params.temperature == 0:
            is_right = row[token] >= row.max() - MARGIN
        else:
            is_right = _is_drawn(row / params.temperature, token, uniform(seed, position, index))
        assert is_right, f"token {position} of the answer to {list(prompt)} is {token}"


def confirm_logprobs(
    cold: LLM, prompt: Sequence[int], answer: Sequence[int], logprobs: Sequence[TokenLogprobs]
) -> None:
    assert [one.token_id for one in logprobs] == list(answer)
    for row, one in zip(_rows(cold, prompt, answer), logprobs, strict=True):
        expected = row[one.token_id] - np.logaddexp.reduce(row.astype(np.float64))
        assert abs(one.logprob - expected) < LOGPROB


def _rows(cold: LLM, prompt: Sequence[int], answer: Sequence[int]) -> NDArray[np.float32]:
    """The logits that each token of the answer was drawn from."""
    if not answer:
        return np.empty((0, 0), np.float32)
    return cold.logits([*prompt, *answer][:-1])[len(prompt) - 1 :]


def _is_drawn(row: Row, token: int, number: float) -> bool:
    weights = np.exp(row.astype(np.float64) - row.max())
    ends = np.cumsum(weights / weights.sum())
    start = ends[token - 1] if token else 0.0
    return bool(start - SHARE <= number <= ends[token] + SHARE)
