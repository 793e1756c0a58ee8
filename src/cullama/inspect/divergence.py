"""Measures how far one model's predictions diverge from another's over a text.

KL divergence in nats, the share of tokens with the same likeliest next token, and both models'
perplexity. It takes logits and token ids; it runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import HostArray

Doubles = NDArray[np.float64]

MAX_WIDENED = 1 << 20  # logits converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Divergence:
    """Figures of T positions, in one text or several; NaN where logits are NaN or infinite."""

    nats: Doubles  # [T]: KL(expected ‖ found) of the next token's distribution
    has_same_top: NDArray[np.bool_]  # [T]: whether both have the same likeliest next token
    expected_surprise: Doubles  # −log p(next token) by the first model, one fewer for each text
    found_surprise: Doubles  # and by the second

    @classmethod
    def joined(cls, parts: Sequence[Divergence]) -> Divergence:
        """Join the figures of several texts."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def tokens(self) -> int:
        """T: the number of predictions compared."""
        return len(self.nats)

    @property
    def mean(self) -> float:
        """The mean divergence, in nats a token."""
        return float(self.nats.mean())

    @property
    def largest(self) -> float:
        """The largest divergence of a token, in nats."""
        return float(self.nats.max())

    @property
    def same_top(self) -> float:
        """The share of positions with the same likeliest next token, from 0 to 1."""
        return float(self.has_same_top.mean())

    @property
    def perplexities(self) -> tuple[float, float]:
        """The first model's perplexity, and the second's."""
        return _perplexity(self.expected_surprise), _perplexity(self.found_surprise)

    def as_json(self) -> dict[str, Any]:
        expected, found = self.perplexities
        return {
            "tokens": self.tokens,
            "mean_divergence": self.mean,
            "max_divergence": self.largest,
            "same_top": self.same_top,
            "perplexity": {"source": expected, "found": found},
        }


def divergence(expected: HostArray, found: HostArray, text: Sequence[int]) -> Divergence:
    """Compare two models' logits over a text, in float64.

    Args:
        expected: logits of the reference model, [T, V].
        found: logits of the other model, [T, V].
        text: the T token ids of the text.
    """
    assert expected.shape == found.shape == (len(text), expected.shape[1])
    nats, has_same_top = np.zeros(len(text)), np.zeros(len(text), np.bool_)
    surprise = np.zeros((2, len(text) - 1))
    step = max(1, MAX_WIDENED // expected.shape[1])
    for start in range(0, len(text), step):
        rows = slice(start, min(start + step, len(text)))
        p, q = log_softmax(expected[rows]), log_softmax(found[rows])
        with np.errstate(invalid="ignore"):
            nats[rows] = kl_divergence(p, q)
        has_same_top[rows] = p.argmax(axis=1) == q.argmax(axis=1)
        following = np.asarray(text[rows.start + 1 : rows.stop + 1], np.int64)
        count = len(following)
        for side, logs in zip(surprise, (p, q), strict=True):
            side[rows.start : rows.start + count] = -logs[np.arange(count), following]
    return Divergence(nats, has_same_top, *surprise)


def kl_divergence(p: Doubles, q: Doubles) -> Doubles:
    """Return KL(p ‖ q) in nats along the last axis, given logarithms of probabilities."""
    divergence: Doubles = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0)  # rounding: below 0
    return divergence


def log_softmax(logits: HostArray) -> Doubles:
    """Return log softmax in float64 along the last axis, from the maximum down: no overflow."""
    with np.errstate(invalid="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=-1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _perplexity(surprise: Doubles) -> float:
    """Return exp of the mean surprise; NaN for texts of one token, which have no next token."""
    with np.errstate(over="ignore"):
        return float(np.exp(surprise.mean())) if surprise.size else nan
