"""How far one model's predictions lie from another's, over a text: what a loss of precision costs.

Kullback-Leibler divergence in nats, the share of tokens for which both hold the same one likeliest,
and the perplexity of either. It knows logits and token ids, not where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.tensor import HostArray

Doubles = NDArray[np.float64]

AT_ONCE = 1 << 20  # logits that are widened to float64 at a time


@dataclass(frozen=True, eq=False)
class Divergence:
    """Of T positions, in one text or several; NaN where logits are no numbers."""

    nats: Doubles  # [T]: KL(expected ‖ found), of what is predicted behind each position
    has_same_top: NDArray[np.bool_]  # [T]
    expected_surprise: Doubles  # −log p of each token that did come next, at most [T]
    found_surprise: Doubles  # the same, to the other model

    @classmethod
    def joined(cls, parts: Sequence[Divergence]) -> Divergence:
        """Several texts as one."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def tokens(self) -> int:
        """T: predictions compared."""
        return len(self.nats)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return float(self.nats.mean())

    @property
    def largest(self) -> float:
        return float(self.nats.max())

    @property
    def same_top(self) -> float:
        """The share of positions, from 0 to 1."""
        return float(self.has_same_top.mean())

    @property
    def perplexities(self) -> tuple[float, float]:
        """Of the model expected, and of the one found."""
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
    """What two models predict behind each token of a text, compared in float64.

    Args:
        expected: logits of the model that is believed, [T, V].
        found: logits of the other one, [T, V].
        text: the T token ids that both have read.
    """
    assert expected.shape == found.shape == (len(text), expected.shape[1])
    nats, has_same_top = np.zeros(len(text)), np.zeros(len(text), np.bool_)
    surprise = np.zeros((2, len(text) - 1))
    for rows in _slices(*expected.shape):
        p, q = log_softmax(expected[rows]), log_softmax(found[rows])
        with np.errstate(invalid="ignore"):
            nats[rows] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0)  # ≥ 0 but for rounding
        has_same_top[rows] = p.argmax(axis=1) == q.argmax(axis=1)
        came = np.asarray(text[rows.start + 1 : rows.stop + 1], np.int64)
        for side, logs in zip(surprise, (p, q), strict=True):
            side[rows.start : rows.start + len(came)] = -logs[np.arange(len(came)), came]
    return Divergence(nats, has_same_top, *surprise)


def log_softmax(logits: HostArray) -> Doubles:
    """In float64 along the last axis, from the largest logit down, so that nothing overflows."""
    with np.errstate(invalid="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=-1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _slices(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, AT_ONCE // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _perplexity(surprise: Doubles) -> float:
    """NaN for texts of one token each, behind which nothing came."""
    with np.errstate(over="ignore"):
        return float(np.exp(surprise.mean())) if surprise.size else nan
