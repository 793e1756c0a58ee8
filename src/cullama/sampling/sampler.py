"""Draws a token from logits, in a chain of small steps.

    mask → bias → penalties → temperature → top-k → top-p → min-p → draw

The order is that of transformers. One row of logits at a time, in float32 on the host: every
device's sampler is tested against it. Ties go to the lower token id. It runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
    params, wanted = draw.params, draw.num_logprobs
    best = likeliest(logits)  # refuses such rows
    if draw.is_plain_greedy:
        return Drawn(best, None)
    if draw.given is not None:
        return Drawn(draw.given, logprobs_of(logits, draw.given, wanted or 0))
    with np.errstate(over="ignore"):  # −∞ is the right answer for a hopeless token
        scores = logits if draw.mask is None else masked(logits, draw.mask)
        if params.changes_logits:
            scores = adjusted(scores, draw)
        if params.temperature == 0:
            token = likeliest(scores)
        else:
            probs = softmax(scores, params.temperature)
            if params.top_k:
                keep_top_k(probs, params.top_k)
            if params.top_p < 1:
                keep_top_p(probs, params.top_p)
            if params.min_p:
                keep_min_p(probs, params.min_p)
            token = pick(probs, uniform(draw.seed, draw.position, draw.sample_index))
        return Drawn(token, None if wanted is None else logprobs_of(logits, token, wanted))


def likeliest(logits: Row) -> int:
    best = int(logits.argmax())  # of a row with NaN, this is the NaN
    if not math.isfinite(logits[best]):
        raise not_finite(logits[best])
    return best


def not_finite(logit: float) -> NumericalError:
    return NumericalError(f"the model's logits hold {logit}, expected finite numbers")


def masked(logits: Row, mask: bytes) -> Row:
    """Return a copy of the row with −∞ for the tokens whose bit is 0."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(logits), bitorder="little")
    return np.where(bits.view(np.bool_), logits, np.float32(-np.inf))


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
    probs = scores - scores.max()
    if temperature != 1:
        probs /= np.float32(max(temperature, 1e-30))
    np.exp(probs, out=probs)
    probs /= probs.sum()
    return probs


def keep_top_k(probs: Row, k: int) -> None:
    """Zero all but the k largest, in place."""
    if k >= len(probs):
        return
    threshold = np.partition(probs, -k)[-k]
    ties = np.flatnonzero(probs == threshold)
    above = int(np.count_nonzero(probs > threshold))
    probs[probs < threshold] = 0
    probs[ties[k - above :]] = 0


def keep_top_p(probs: Row, share: float) -> None:
    """Zero all but the smallest set of the largest that reaches `share` of their sum."""
    total = float(probs.sum())
    # All below this line sum to less than (1 − share) · total, so the set lies above it
    # and only the few that do need sorting. The line is drawn a little lower than rounding could.
    line = (1 - share) * total / len(probs) * (1 - 1e-5)
    contenders = np.flatnonzero(probs >= line)
    order = contenders[np.argsort(-probs[contenders], kind="stable")]
    reached = np.cumsum(probs[order], dtype=np.float64)
    kept = order[: int(np.searchsorted(reached, share * total)) + 1]
    survivors = probs[kept]
    probs[:] = 0
    probs[kept] = survivors


def keep_min_p(probs: Row, share: float) -> None:
    """Zero all below `share` of the largest, in place."""
    probs[probs < np.float32(share) * probs.max()] = 0


def pick(probs: Row, uniform_number: float) -> int:
    """Invert the cumulative distribution, in order of token ids, at a number in [0, 1)."""
    reached = np.cumsum(probs, dtype=np.float64)
    token = int(np.searchsorted(reached, uniform_number * reached[-1], side="right"))
    return token if token < len(probs) else int(np.flatnonzero(probs)[-1])


def logprobs_of(logits: Row, token: int, count: int) -> TokenLogprobs:
    """Return the log-probabilities of a token and of the `count` likeliest, from the row [V]."""
    with np.errstate(over="ignore"):
        shifted = logits - logits.max()
    log_sum = np.log(np.exp(shifted).sum())
    top: Iterable[int] = ()
    if count:
        least = np.partition(logits, -count)[-count] if count < len(logits) else -np.inf
        contenders = np.flatnonzero(logits >= least)
        top = contenders[np.argsort(-logits[contenders], kind="stable")][:count].tolist()
    return TokenLogprobs(
        token, float(shifted[token] - log_sum), tuple((i, float(shifted[i] - log_sum)) for i in top)
    )
