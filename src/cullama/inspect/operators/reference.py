"""Reference implementations of the operators in float64, independent of both backends."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

ROWS_AT_ONCE = 8192  # of the weight, converted to float64


def linear(x: Floats, weight: NDArray[np.float32], *added: Floats) -> Floats:
    """Return `x @ weight.T` plus a bias, a residual or both: [T, I], [O, I] → [T, O]."""
    starts = range(0, len(weight), ROWS_AT_ONCE)
    parts = [x @ weight[start : start + ROWS_AT_ONCE].T.astype(np.float64) for start in starts]
    out = np.concatenate(parts, axis=1)
    for each in added:
        out += each
    return out


def rms_norm(x: Floats, weight: NDArray[np.float32], eps: float) -> Floats:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu_mul(gate_up: Floats) -> Floats:
    gate, up = np.split(gate_up, 2, axis=1)
    return gate / (1 + np.exp(-gate)) * up


def rotated(x: Floats, angles: Floats) -> Floats:
    """Rotate pairs half a head apart, as complex numbers: [T, heads, E], [T, E/2]."""
    first, second = np.split(x, 2, axis=-1)
    pairs = (first + 1j * second) * np.exp(1j * angles)[:, None]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attention(q: Floats, keys: Floats, values: Floats) -> Floats:
    """Return causal attention of the last T of C tokens: [T, H, E], [C, K, E] → [T, H E]."""
    tokens, heads, width = q.shape
    group = heads // keys.shape[1]
    ahead = np.arange(len(keys)) > np.arange(len(keys) - tokens, len(keys))[:, None]
    out = np.empty_like(q)
    for head in range(heads):
        scores = q[:, head] @ keys[:, head // group].T / np.sqrt(width)
        scores[ahead] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights @ values[:, head // group] / weights.sum(axis=1, keepdims=True)
    return out.reshape(tokens, heads * width)


def drawn(logits: Floats, temperature: float, top_p: float, uniform: float) -> int:
    """Return the top-p sample at the point `uniform` of the cumulative distribution."""
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= top_p * weights.sum()]] = 0
    reached = np.cumsum(weights)
    return int(np.searchsorted(reached, uniform * reached[-1], side="right"))
