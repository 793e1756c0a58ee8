"""Checks a request against an engine's capacity, before it is queued.

It needs no model, no engine and no arrays. Sampling parameters check themselves, in
`sampling/params.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from ..errors import ContextLengthError, UsageError
from ..sampling.params import UNLIMITED, SamplingParams

DEFAULT_MAX_TOKENS = 256
MAX_PRIORITY = 1_000_000


@dataclass(frozen=True)
class Capacity:
    """The sizes that requests to one engine are checked against."""

    vocab_size: int
    eos_ids: tuple[int, ...]  # the model's own end tokens
    context_length: int  # tokens of prompt and completion together
    cache_tokens: int  # tokens that the whole KV cache holds
    default_max_tokens: int = DEFAULT_MAX_TOKENS  # of a completion that names no limit

    @property
    def max_length(self) -> int:
        """Most tokens of prompt and completion together; the last one needs no cache slot."""
        return min(self.context_length, self.cache_tokens + 1)


def check_request(
    prompt: Sequence[int], params: SamplingParams, priority: int, capacity: Capacity
) -> int:
    """Return how many tokens the completion may have.

    Raises:
        UsageError: an empty prompt, a token id outside the vocabulary, an invalid priority.
        ContextLengthError: prompt and completion do not fit the context.
    """
    check_priority(priority)
    check_prompt(prompt, capacity)
    check_token_ids("stop_token_ids", params.stop_token_ids, capacity)
    check_token_ids("logit_bias", params.logit_bias, capacity)
    if params.max_tokens == 0:  # the last token is only scored: it does not go through the model
        check_length(len(prompt) - 1, capacity)
        return 0
    return completion_limit(len(prompt), params.max_tokens, capacity)


def check_prompt(prompt: Sequence[int], capacity: Capacity) -> None:
    """Check that a prompt has tokens, all in the vocabulary. Raises UsageError."""
    if not prompt:
        raise UsageError("the prompt is empty, expected at least one token")
    check_token_ids("the prompt", prompt, capacity)


def check_prompt_alone(prompt: Sequence[int], capacity: Capacity) -> None:
    """Check a prompt that is computed in a KV cache of its own, without a completion.

    Raises:
        UsageError: an empty prompt, or ids outside the vocabulary.
        ContextLengthError: a prompt longer than the context.
    """
    check_prompt(prompt, capacity)
    check_length(len(prompt), replace(capacity, cache_tokens=capacity.context_length))


def check_token_ids(where: str, tokens: Iterable[Any], capacity: Capacity) -> None:
    """Check that ids are in the vocabulary. Raises UsageError; `where` begins its message."""
    for token in tokens:
        # numpy's integers are Integral, too; the first question is the faster one.
        is_integer = type(token) is int or (
            isinstance(token, Integral) and not isinstance(token, bool)
        )
        if not is_integer or not 0 <= token < capacity.vocab_size:
            raise UsageError(
                f"{where} holds {token!r}, expected token ids below {capacity.vocab_size}"
            )


def check_length(tokens: int, capacity: Capacity) -> None:
    """Check that so many tokens can go through the model. Raises ContextLengthError."""
    if tokens > min(capacity.context_length, capacity.cache_tokens):
        place, size = _smaller(capacity)
        raise ContextLengthError(
            f"a prompt of {tokens} tokens does not fit the {place} of {size} tokens; "
            "shorten the prompt"
        )


def completion_limit(prompt_length: int, max_tokens: int | None, capacity: Capacity) -> int:
    """Return how many tokens the completion may have; `max_tokens`: None takes the default,
    UNLIMITED all the room.

    Raises:
        ContextLengthError: prompt and completion are longer than the context, or than the cache.
    """
    room = capacity.max_length - prompt_length
    if max_tokens == UNLIMITED:
        max_tokens = max(1, room)
    if room < (1 if max_tokens is None else max_tokens):
        place, size = _smaller(capacity)
        completion = f" and an answer of up to {max_tokens}" if max_tokens else ""
        raise ContextLengthError(
            f"a prompt of {prompt_length} tokens{completion} does not fit the {place} of {size} "
            "tokens; shorten the prompt" + (" or lower max_tokens" if max_tokens else "")
        )
    return min(room, capacity.default_max_tokens) if max_tokens is None else max_tokens


def check_logprobs_start(start: Any, prompt_length: int) -> None:
    """Raises UsageError: no position of the prompt behind its first token."""
    if type(start) is not int or not 1 <= start <= max(1, prompt_length - 1):
        raise UsageError(
            f"logprobs_start is {start!r}, expected a position in the prompt, from 1 on"
        )


def _smaller(capacity: Capacity) -> tuple[str, int]:
    """Return what limits the length of requests, context or cache, and its size in tokens."""
    if capacity.max_length < capacity.context_length:
        return "cache", capacity.cache_tokens
    return "context", capacity.context_length


def check_priority(priority: Any) -> None:
    """Raises UsageError: no whole number, or out of range."""
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise UsageError(f"priority is {priority!r}, expected a whole number like 0, 1 or -1")
