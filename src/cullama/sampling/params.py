"""Holds and checks what a request may ask of the sampler: `SamplingParams`. Imports no numpy.

The sampler that these parameters control is in `sampling/sampler.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

from ..errors import ConstraintError, UsageError
from .constraint import Constraint, checked_choice, checked_schema, checked_text, constraint_of
from .dialect import SAMPLING, explain_names

MAX_LOGPROBS = 20


class TokenLogprobs(NamedTuple):
    """Log-probabilities (natural logarithm) under the model itself, before bias and temperature."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the likeliest tokens, likeliest first


@dataclass(frozen=True, repr=False)
class SamplingParams:
    """What a request asks for. The defaults draw from the model's own distribution.

    None takes the default of any of them. Parameters can be hashed, compared and pickled, and
    their values are Python's own numbers, whatever numbers were given.

    Attributes:
        max_tokens: longest answer, in tokens; None takes what the model's files recommend, or 256
            where they name no limit, or what the context has room for where that is less; -1 takes
            all there is room for. With `prompt_logprobs` it may be 0: nothing is generated.
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
        stop: texts that end the answer; they are not part of it unless `include_stop` says so.
        stop_token_ids: tokens that end the answer, besides the model's own.
        logit_bias: added to the logits of these token ids.
        logprobs: report this many likeliest tokens at each step; None reports nothing.
        prompt_logprobs: report the log-probability of each token of the prompt, and this many
            likeliest tokens in its place; None reports nothing.
        n: how many answers to draw.
        include_stop: keep the stop string, or the text of a stop token, in the answer's text.
        ignore_eos: go on past the model's end tokens.
        speculation: propose up to so many draft tokens a step where the text repeats itself
            (prompt lookup): fewer steps, and the same text where the logits are the same to the
            bit.
        json_schema: the answer is JSON that is valid under this schema, which is given as an
            object, as JSON or as a pydantic model. This and the next four need llguidance
            (`pip install 'cullama[structured]'`); at most one of them is given, and no `stop`.
        json_object: the answer is a JSON object.
        regex: the answer matches this regular expression as a whole.
        grammar: the answer follows this grammar, in llguidance's variant of Lark.
        choice: the answer is one of these texts.

    With one of these, end tokens are drawn only where the answer is complete, and it ends where
    nothing could follow: an answer that ends by "stop" has the form that was asked for.

    Raises:
        UsageError: a value out of range.
        ConstraintError: a schema, grammar … that is wrong or not supported.
        UnknownOptionError: a name that does not exist; the message has the one that does.
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
    include_stop: bool = False
    ignore_eos: bool = False
    speculation: int = 0
    json_schema: Any = None
    json_object: bool = False
    regex: str | None = None
    grammar: str | None = None
    choice: Sequence[str] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _CHECKS.get(item.name, _checked_number)(item.name, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise UsageError("max_tokens is 0, expected at least 1, or prompt_logprobs with it")
        if self.max_tokens == 0 and self.n > 1:
            raise UsageError(f"n is {self.n}, expected 1 where max_tokens is 0")
        if self.constraint is not None and self.stop:
            raise ConstraintError(
                "stop",
                f"stop and {self.constraint.kind} were given; a stop string would cut the answer "
                "short of its form, so leave one of them out",
            )

    @property
    def constraint(self) -> Constraint | None:
        """The form that the answer must have, if any."""
        return constraint_of(
            self.json_schema, self.json_object, self.regex, self.grammar, self.choice
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SamplingParams:
        """From options by name, as JSON has them."""
        return cls(**values)

    def replace(self, **changes: Any) -> SamplingParams:
        """Return a copy with some parameters changed: `params.replace(seed=2)`."""
        return replace(self, **changes)

    def ending_with(self, token_id: int) -> SamplingParams:
        """Return the parameters with which an answer ends with this token, at once."""
        ends = (*self.stop_token_ids, token_id)
        return self.replace(max_tokens=1, stop_token_ids=ends, logit_bias={token_id: MAX_VALUE})

    def __hash__(self) -> int:
        values = {**vars(self), "logit_bias": frozenset(self.logit_bias.items())}
        return hash(tuple(values.values()))

    def __repr__(self) -> str:
        """Write what differs from the defaults."""
        default = vars(SamplingParams())
        changed = (
            f"{name}={value!r}" for name, value in vars(self).items() if value != default[name]
        )
        return f"SamplingParams({', '.join(changed)})"

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


SamplingParams.__init__ = explain_names(SAMPLING)(  # type: ignore[method-assign]
    SamplingParams.__init__
)

# Far beyond any use, and far within float32: no parameter can turn a logit into an infinity.
MAX_VALUE = 1_000_000.0
MIN_VALUE = 1 / MAX_VALUE
MAX_TOKENS = (1 << 63) - 1
UNLIMITED = -1  # `max_tokens` as many as there is room for

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
# What -1 means in llama.cpp and vLLM, in the words used here.
_MINUS_ONE = {"max_tokens": UNLIMITED, "top_k": 0, "seed": None}


def _checked_number(name: str, value: Any) -> Any:
    if value is None:
        return getattr(SamplingParams, name)  # its default
    if _is_whole(value) and value == -1 and name in _MINUS_ONE:
        return _MINUS_ONE[name]
    kind, low, high = _RANGES[name]
    fits = _is_whole(value) if kind is int else _is_number(value)
    if not fits or not low <= value <= high:  # NaN is in no range
        number = "a whole number" if kind is int else "a number"
        above = "above 0" if low == math.ulp(0) else f"from {low:,.6g}"
        below = f"to {high:,}" if kind is int else f"to {high:,.16g}"
        none = ", or none" if getattr(SamplingParams, name) is None else ""
        raise UsageError(f"{name} is {_short(value)}, expected {number} {above} {below}{none}")
    return _plain(value)


def _checked_flag(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{name} is {_short(value)}, expected True or False")
    return bool(value)


def _checked_stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else () if value is None else value
    if not isinstance(stops, list | tuple) or not all(isinstance(t, str) and t for t in stops):
        raise UsageError(f"{name} is {_short(value)}, expected texts that are not empty")
    return tuple(map(str, stops))


def _checked_ids(name: str, value: Any) -> tuple[int, ...]:
    ids = () if value is None else value
    if not isinstance(ids, Collection) or not all(map(_is_token_id, ids)):
        raise UsageError(f"{name} is {_short(value)}, expected token ids")
    return tuple(map(int, ids))


def _checked_biases(name: str, value: Any) -> dict[int, float]:
    """Return biases by token id, of a mapping, as JSON has it, too, or of pairs.

    Minus infinity, and False as in llama.cpp, forbid a token.
    """
    pairs = value.items() if isinstance(value, Mapping) else () if value is None else value
    if not isinstance(pairs, Collection) or not all(_is_pair(pair) for pair in pairs):
        raise UsageError(f"{name} is {_short(value)}, expected token ids and numbers")
    biases: dict[int, float] = {}
    for key, bias in pairs:
        token = int(key) if isinstance(key, str) and key.isdecimal() else key
        added = -MAX_VALUE if bias is False else bias
        if _is_number(added) and abs(added) == math.inf:
            added = math.copysign(MAX_VALUE, added)
        if not (_is_token_id(token) and _is_number(added) and -MAX_VALUE <= added <= MAX_VALUE):
            raise UsageError(
                f"{name}[{_short(key)}] is {_short(bias)}, expected a token id and a "
                f"number from {-MAX_VALUE:,.0f} to {MAX_VALUE:,.0f}, or -inf"
            )
        biases[int(token)] = _plain(added)
    return biases


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "stop": _checked_stops,
    "stop_token_ids": _checked_ids,
    "logit_bias": _checked_biases,
    "ignore_eos": _checked_flag,
    "include_stop": _checked_flag,
    "json_schema": checked_schema,
    "json_object": _checked_flag,
    "regex": checked_text,
    "grammar": checked_text,
    "choice": checked_choice,
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # numpy's, too


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_token_id(value: Any) -> bool:
    return _is_whole(value) and bool(value >= 0)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _plain(number: Any) -> Any:
    """Return a number as Python's own, which JSON and pickle of any machine know."""
    if type(number) in (int, float):
        return number
    return int(number) if isinstance(number, Integral) else float(number)


def _short(value: Any) -> str:
    """Write a value in at most 80 characters; Python refuses to write out very long numbers."""
    try:
        shown = repr(value)
    except ValueError:
        return "too long a number"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
