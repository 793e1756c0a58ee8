"""Holds and checks what a request may ask of the sampler: `SamplingParams`. Imports no numpy.

The sampler that these parameters control is in `sampling/sampler.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ..errors import UsageError

MAX_LOGPROBS = 20


class TokenLogprobs(NamedTuple):
    """Log-probabilities (natural logarithm) under the model itself, before bias and temperature."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the likeliest tokens, likeliest first


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for. The defaults draw from the model's own distribution.

    Attributes:
        max_tokens: longest answer, in tokens; None takes what the model's files recommend, or 256
            where they name no limit, or what the context has room for where that is less.
            With `prompt_logprobs` it may be 0: nothing is generated.
        temperature: logits are divided by it; 0 always takes the likeliest token.
        top_k: only the k likeliest tokens; 0 keeps all.
        top_p: only the likeliest tokens that together reach this share (Holtzman et al., 2020).
        min_p: only tokens at least this share as likely as the likeliest (Nguyen et al., 2024).
        repetition_penalty: divides the logits of tokens in prompt and answer, where positive,
            and multiplies them where negative (Keskar et al., "CTRL", 2019); 1 leaves them.
        presence_penalty: taken off the logit of every token already in the answer.
        frequency_penalty: taken off once for each time the token is already in the answer.
        seed: the same seed draws by the same random numbers: the same text where the logits are
            the same to the bit, in any batch with compiled CPU kernels or `deterministic`. None
            draws a seed, and the completion names it.
        stop: texts that end the answer; they are not part of it.
        stop_token_ids: tokens that end the answer, besides the model's own.
        logit_bias: added to the logits of these token ids.
        logprobs: report this many likeliest tokens at each step; None reports nothing.
        prompt_logprobs: report the log-probability of each token of the prompt, and this many
            likeliest tokens in its place; None reports nothing.
        n: how many answers to draw.
        ignore_eos: go on past the model's end tokens.
        speculation: propose up to so many draft tokens a step where the text repeats itself
            (prompt lookup): fewer steps, and the same text where the logits are the same to the
            bit.

    Raises:
        UsageError: a value out of range, or a name that does not exist.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False
    speculation: int = 0

    def __post_init__(self) -> None:
        stops: Any = [self.stop] if isinstance(self.stop, str) else self.stop
        ids, biases = self.stop_token_ids, self.logit_bias
        if not isinstance(stops, list | tuple) or not all(isinstance(t, str) and t for t in stops):
            raise UsageError(f"stop is {_short(self.stop)}, expected texts that are not empty")
        if not isinstance(ids, Collection) or not all(_is_token_id(token) for token in ids):
            raise UsageError(f"stop_token_ids is {_short(ids)}, expected token ids")
        if not isinstance(biases, Mapping):
            raise UsageError(f"logit_bias is {_short(biases)}, expected token ids and numbers")
        for token, bias in biases.items():
            if not (_is_token_id(token) and _is_number(bias) and -MAX_VALUE <= bias <= MAX_VALUE):
                raise UsageError(
                    f"logit_bias[{_short(token)}] is {_short(bias)}, expected a token id and a "
                    f"number from {-MAX_VALUE:,.0f} to {MAX_VALUE:,.0f}"
                )
        object.__setattr__(self, "stop", tuple(stops))
        object.__setattr__(self, "stop_token_ids", tuple(ids))
        object.__setattr__(self, "logit_bias", dict(biases))
        for name, (kind, low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), kind, low, high)
        if not isinstance(self.ignore_eos, bool):
            raise UsageError(f"ignore_eos is {self.ignore_eos!r}, expected True or False")
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise UsageError("max_tokens is 0, expected at least 1, or prompt_logprobs with it")
        if self.max_tokens == 0 and self.n > 1:
            raise UsageError(f"n is {self.n}, expected 1 where max_tokens is 0")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SamplingParams:
        """From options by name; an unknown name is an error that lists the known ones."""
        known = [item.name for item in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise UsageError(
                f"unknown sampling parameter {unknown[0]!r}, expected one of {', '.join(known)}"
            )
        return cls(**values)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token of the unchanged logits is all that is asked for."""
        return self.temperature == 0 and self.logprobs is None and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
        )


# Far beyond any use, and far within float32: no parameter can turn a logit into an infinity.
MAX_VALUE = 1_000_000.0
MIN_VALUE = 1 / MAX_VALUE
MAX_TOKENS = (1 << 63) - 1

# name → kind, lowest, highest
_RANGES: dict[str, tuple[type, float, float]] = {
    "max_tokens": (int, 0, MAX_TOKENS),
    "temperature": (float, 0, MAX_VALUE),
    "top_k": (int, 0, MAX_TOKENS),
    "top_p": (float, math.ulp(0), 1),
    "min_p": (float, 0, 1),
    "repetition_penalty": (float, MIN_VALUE, MAX_VALUE),
    "presence_penalty": (float, -MAX_VALUE, MAX_VALUE),
    "frequency_penalty": (float, -MAX_VALUE, MAX_VALUE),
    "seed": (int, 0, (1 << 64) - 1),
    "logprobs": (int, 0, MAX_LOGPROBS),
    "prompt_logprobs": (int, 0, MAX_LOGPROBS),
    "n": (int, 1, 1024),
    "speculation": (int, 0, 64),
}
_MAY_BE_NONE = ("max_tokens", "seed", "logprobs", "prompt_logprobs")


def _check_range(name: str, value: Any, kind: type, low: float, high: float) -> None:
    if value is None and name in _MAY_BE_NONE:
        return
    fits = _is_whole(value) if kind is int else _is_number(value)
    if not fits or not low <= value <= high:  # NaN is in no range
        number = "a whole number" if kind is int else "a number"
        above = "above 0" if low == math.ulp(0) else f"from {low:,.6g}"
        none = ", or none" if name in _MAY_BE_NONE else ""
        raise UsageError(
            f"{name} is {_short(value)}, expected {number} {above} to {high:,.16g}{none}"
        )


def biases_from_json(biases: Mapping[str, Any]) -> dict[Any, Any]:
    """Turn JSON's keys of `logit_bias` into token ids; others stay as they are, to be refused."""
    return {int(key) if key.isdecimal() else key: bias for key, bias in biases.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_token_id(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _short(value: Any) -> str:
    """Write a value in at most 80 characters; Python refuses to write out very long numbers."""
    try:
        shown = repr(value)
    except ValueError:
        return "too long a number"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
