"""Computes random numbers that depend only on where they are used: Philox4x32-10.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A counter-based generator
has no state to carry: the number for token 17 of sample 2 of a request is a function of (seed, 17,
2), the same alone, in a batch, streamed, or on another backend. (The text is the same where the
logits are, to the bit: with compiled CPU kernels or `deterministic`, in any batch.) The same ten
rounds are a few integer instructions on a GPU. It draws no token.
"""

from __future__ import annotations

import os

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # fractional parts of the golden ratio and of √3
_WORD = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return four random 32-bit words for a 128-bit counter under a 64-bit key."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (
            (second >> 32) ^ b ^ low,
            second & _WORD,
            (first >> 32) ^ d ^ high,
            first & _WORD,
        )
        low, high = (low + _KEY_STEPS[0]) & _WORD, (high + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def uniform(seed: int, step: int, index: int = 0, purpose: int = 0) -> float:
    """Return a float64 in [0, 1) for one draw of one sample of one request."""
    counter = (step & _WORD, index & _WORD, purpose & _WORD, 0)
    a, b, _, _ = philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    return ((a >> 5) * (1 << 26) + (b >> 6)) / (1 << 53)


def fresh_seed() -> int:
    """Return a seed for a request without one; short enough to be typed again."""
    return int.from_bytes(os.urandom(4), "little")
