"""Draws a token from logits, in a chain of small steps.

    bias → penalties → temperature → top-k → top-p → min-p → draw

The order is that of transformers. One row of logits at a time, in float32 on the host: every
device's sampler is tested against it. Ties go to the lower token id. It runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import NumericalError, UsageError
from .draw import Draw, Drawn
from .params import TokenLogprobs
from .philox import uniform

Row = NDArray[np.float32]  # [V]


def sample(logits: NDArray[np.float32], draws: Sequence[Draw]) -> list[Drawn | NumericalError]:
    """Draw one token for each row: logits [R, V] and R draws → R tokens.

    A row with a NaN or +∞, or of nothing but −∞, gives an error in place of its token, so that only
    its own request ends.
    """
    drawn: list[Drawn | NumericalError] = []
    for row, draw in zip(logits, draws, strict=True):
        try:
            drawn.append(sample_row(row, draw))
        except NumericalError as error:
            drawn.append(error)
    return drawn


def sample_row(logits: Row, draw: Draw) -> Drawn:
    """Draw a token from one row. Raises NumericalError for a NaN or +∞, or nothing but −∞."""
    params = draw.params
    if params.is_plain_greedy:
        return Drawn(likeliest(logits), None)
    likeliest(logits)  # refuses such rows
    with np.errstate(over="ignore"):  # −∞ is the right answer for a hopeless token
        scores = adjusted(logits, draw) if params.changes_logits else logits
        if params.temperature == 0:
            token = likeliest(scores)
        else:
            weights = softmax(scores, params.temperature)
            if params.top_k:
                keep_top_k(weights, params.top_k)
            if params.top_p < 1:
                keep_top_p(weights, params.top_p)
            if params.min_p:
                keep_min_p(weights, params.min_p)
            token = pick(weights, uniform(draw.seed, draw.position, draw.sample_index))
        wanted = params.logprobs
        return Drawn(token, None if wanted is None else logprobs_of(logits, token, wanted))


def likeliest(logits: Row) -> int:
    best = int(logits.argmax())  # of a row with NaN, this is the NaN
    if not math.isfinite(logits[best]):
        raise not_finite(logits[best])
    return best


def not_finite(logit: float) -> NumericalError:
    return NumericalError(
        f"the model's logits hold {logit}, expected finite numbers; "
        "its weights may be damaged, or too large for the storage type"
    )


def adjusted(logits: Row, draw: Draw) -> Row:
    """Return a copy of the row with bias and penalties applied."""
    params, scores = draw.params, logits.copy()
    for token, bias in params.logit_bias.items():
        check_bias(token, len(scores))
        scores[token] += bias
    if params.repetition_penalty != 1:
        seen = np.unique(np.asarray(draw.tokens, np.int64))
        penalty = np.float32(params.repetition_penalty)
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    if draw.position:
        answer = np.asarray(draw.tokens[draw.prompt_length :], np.int64)
        said, counts = np.unique(answer, return_counts=True)
        taken = params.presence_penalty + params.frequency_penalty * counts
        scores[said] -= taken.astype(np.float32)
    return scores


def check_bias(token: int, vocabulary: int) -> None:
    if token >= vocabulary:
        raise UsageError(f"logit_bias names token {token}, expected below {vocabulary}")


def softmax(scores: Row, temperature: float) -> Row:
    """Return probabilities [V]. The maximum is subtracted first, so no temperature overflows."""
    weights = scores - scores.max()
    if temperature != 1:
        weights /= np.float32(max(temperature, 1e-30))
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def keep_top_k(weights: Row, k: int) -> None:
    """Zero all but the k largest, in place."""
    if k >= len(weights):
        return
    threshold = np.partition(weights, -k)[-k]
    ties = np.flatnonzero(weights == threshold)
    above = int(np.count_nonzero(weights > threshold))
    weights[weights < threshold] = 0
    weights[ties[k - above :]] = 0


def keep_top_p(weights: Row, share: float) -> None:
    """Zero all but the smallest set of largest weights that reaches `share` of their sum."""
    total = float(weights.sum())
    # All weights below this line sum to less than (1 − share) · total, so the set lies above it
    # and only the few that do need sorting. The line is drawn a little lower than rounding could.
    line = (1 - share) * total / len(weights) * (1 - 1e-5)
    contenders = np.flatnonzero(weights >= line)
    order = contenders[np.argsort(-weights[contenders], kind="stable")]
    reached = np.cumsum(weights[order], dtype=np.float64)
    kept = order[: int(np.searchsorted(reached, share * total)) + 1]
    survivors = weights[kept]
    weights[:] = 0
    weights[kept] = survivors


def keep_min_p(weights: Row, share: float) -> None:
    """Zero weights below `share` of the largest, in place."""
    weights[weights < np.float32(share) * weights.max()] = 0


def pick(weights: Row, uniform_number: float) -> int:
    """Invert the cumulative weights, in order of token ids, at a number in [0, 1)."""
    reached = np.cumsum(weights, dtype=np.float64)
    token = int(np.searchsorted(reached, uniform_number * reached[-1], side="right"))
    return token if token < len(weights) else int(np.flatnonzero(weights)[-1])


def logprobs_of(logits: Row, token: int, count: int) -> TokenLogprobs:
    shifted = logits - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    top = np.argsort(-logits, kind="stable")[:count]
    return TokenLogprobs(
        token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in top)
    )
