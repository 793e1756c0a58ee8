"""Chooses how long a context may be, and how many tokens the KV cache holds.

It allocates nothing; what a cache may take of the memory is the backend's to say.
"""

from __future__ import annotations

import logging

from ..errors import UsageError
from ..model.backend import AnyBackend
from ..model.config import ModelConfig

# The longest context by default: the RoPE table and the default cache grow with it.
MAX_DEFAULT_CONTEXT = 32768
MAX_CONTEXTS = 64  # full contexts that the default cache has room for
MIN_TOKENS = 512  # of the default cache, where the memory has no room for a context


def choose_context_length(config: ModelConfig, asked: int | None) -> int:
    """Return the context length asked for, or the model's own up to a limit. Raises UsageError."""
    if asked is None:
        return min(config.context_length, MAX_DEFAULT_CONTEXT)
    if type(asked) is not int or not 1 <= asked <= config.context_length:
        raise UsageError(
            f"context_length is {asked!r}, expected 1 to {config.context_length}, the model's own"
        )
    return asked


def choose_cache_tokens(
    config: ModelConfig, context_length: int, asked: int | None, backend: AnyBackend
) -> int:
    """Return the cache size asked for, or one that its share of the memory has room for.

    Raises:
        UsageError: it is below 1, or more than fits the memory.
    """
    usual, most = (size // backend.cache_bytes_per_token(config) for size in backend.cache_budget)
    if asked is not None:
        if type(asked) is not int or not 1 <= asked <= most:
            raise UsageError(
                f"cache_tokens is {asked!r}, expected at least 1 and at most {most}, "
                "which would fill the memory"
            )
        return asked
    if usual < context_length:
        usual = max(usual, min(MIN_TOKENS, context_length))
        logging.getLogger("cullama").warning(
            "the KV cache holds %s tokens, as many as the memory allows, where the context has %s: "
            "longer texts are refused; cache_tokens (--cache-tokens) sets another size",
            *(f"{usual:,}", f"{context_length:,}"),
        )
    return min(MAX_CONTEXTS * context_length, usual)
