"""What every operator means, written from the textbook in float64: plain loops, nothing of src.

A cache is a dictionary from slot to one token's key and value; attention looks its tokens up one
by one. Nothing here is fast, and nothing here is shared with what it judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Cache: TypeAlias = dict[int, tuple[Floats, Floats]]  # slot → key [K, E], value [K, E]


def linear(
    x: Floats, weight: Floats, bias: Floats | None = None, residual: Floats | None = None
) -> Floats:
    """[T, I], [O, I] → [T, O]."""
    out = np.einsum("ti,oi->to", x, weight)
    if bias is not None:
        out = out + bias
    if residual is not None:
        out = out + residual
    return out


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Over the last axis, row by row."""
    out = np.empty_like(x)
    for index in np.ndindex(*x.shape[:-1]):
        row = x[index]
        out[index] = row / np.sqrt(sum(number * number for number in row) / len(row) + eps) * weight
    return out


def silu_mul(gate_up: Floats) -> Floats:
    """[T, 2F] → [T, F]; e^−|g| cannot overflow, and silu(−g) = silu(g) − g."""
    half = gate_up.shape[1] // 2
    gate, up = gate_up[:, :half], gate_up[:, half:]
    falling = np.exp(-np.abs(gate))
    sigmoid = np.where(gate >= 0, 1 / (1 + falling), falling / (1 + falling))
    return gate * sigmoid * up


def turned(x: Floats, angles: Floats) -> Floats:
    """Pair (i, i + E/2) as a complex number, times e^(i·angle): [T, heads, E], [T, E/2]."""
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def cos_sin(angles: Floats) -> NDArray[np.float32]:
    """What `rope_and_store` is given for tokens turned by these angles [T, E/2]: [T, 2E]."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos, -sin, sin], axis=1).astype(np.float32)


def rope_and_store(
    qkv: Floats,
    heads: tuple[int, int],
    angles: Floats,
    slots: Sequence[int],
    cache: Cache,
    norms: tuple[Floats, Floats] | None = None,
    eps: float = 0.0,
) -> Floats:
    """Angles are those of each row, [T, E/2]; keys and values go into `cache`; the rotated q."""
    query_heads, kv_heads = heads
    all_heads = query_heads + 2 * kv_heads
    by_head = qkv.reshape(len(qkv), all_heads, qkv.shape[1] // all_heads)
    q, k = by_head[:, :query_heads], by_head[:, query_heads:-kv_heads]
    if norms is not None:
        q, k = rms_norm(q, norms[0], eps), rms_norm(k, norms[1], eps)
    k = turned(k, angles)
    for row, slot in enumerate(slots):
        if slot >= 0:
            cache[int(slot)] = (k[row], by_head[row, -kv_heads:])
    return turned(q, angles)


def attention(q: Floats, cache: Cache, batch: Any, block_size: int, window: int) -> Floats:
    """[T, H, E] → [T, H E], for a batch of host arrays."""
    out = np.zeros((len(q), q.shape[1] * q.shape[2]))
    for s, context in enumerate(batch.context_lengths):
        start, end = batch.query_starts[s], batch.query_starts[s + 1]
        slots = [
            int(batch.block_tables[s][p // block_size]) * block_size + p % block_size
            for p in range(context if end > start else 0)
        ]
        keys = np.array([cache[slot][0] for slot in slots])  # [context, K, E]
        values = np.array([cache[slot][1] for slot in slots])
        for row in range(start, end):
            position = context - (end - row)
            oldest = max(0, position - window + 1) if window else 0
            seen = slice(oldest, position + 1)
            out[row] = _heard(q[row], keys[seen], values[seen]).ravel()
    return out


def _heard(q: Floats, keys: Floats, values: Floats) -> Floats:
    """One token's heads over the keys and values it sees: [H, E], [n, K, E] → [H, E]."""
    heads, width = q.shape
    group = heads // keys.shape[1]
    out = np.empty_like(q)
    for head in range(heads):
        scores = keys[:, head // group] @ q[head] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[head] = weights @ values[:, head // group] / weights.sum()
    return out
