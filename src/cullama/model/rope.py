"""Rotary position embedding (RoPE): by which angle each pair of a head is rotated at a position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. Pairs are half
a head apart (i, i + E/2), as in Hugging Face's checkpoints. The scalings are those that stretch a
context: "linear", "yarn", Llama 3.1's "llama3", and GGUF's divisors per frequency. It makes the
table; the rotation itself is the operator `rope_and_store`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError
from ..files.fields import Fields
from ..files.regular_file import short_repr

SPELLINGS = ("rope_parameters", "rope_scaling")
KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
GGUF_KINDS = ("none", "linear", "yarn")
CONTEXT = "max_position_embeddings"
MIN_THETA = 1e-3  # models have 1e4 and more; far below 1, angles overflow float32


@dataclass(frozen=True)
class LinearScaling:
    """Every angle divided by one factor (Chen et al., "Position Interpolation", 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a linear ramp between (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True)
class YarnScaling:
    """Low frequencies divided by `factor`, high ones kept, a linear ramp over the pairs between
    (Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023)."""

    factor: float
    original_context: int
    beta_fast: float = 32.0  # full rotations over the original context, from which …
    beta_slow: float = 1.0  # … and up to which the ramp runs
    is_truncated: bool = True  # whether the ramp's ends are rounded to whole pairs

    @property
    def attention_factor(self) -> float:
        """What the paper multiplies queries and keys by, where a file does not name it."""
        return magnitude(self.factor)


Scaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling


def magnitude(factor: float, weight: float = 1.0) -> float:
    """Return YaRN's attention factor for a context stretched by `factor`."""
    return 1.0 + 0.1 * weight * math.log(factor) if factor > 1 else 1.0


@dataclass(frozen=True)
class Rope:
    """The base of the frequencies, θ, and how they are scaled."""

    theta: float = 10000.0
    scaling: Scaling | None = None
    attention_factor: float = 1.0  # of queries and of keys, so scores are scaled by its square
    # One more divisor for each frequency, [E / 2], as GGUF stores them in `rope_freqs.weight`.
    divisors: tuple[float, ...] | None = None

    @property
    def has_divisors_in_gguf(self) -> bool:
        """Whether a GGUF file of it has `rope_freqs.weight`, which is how llama3 is written."""
        return self.divisors is not None or isinstance(self.scaling, Llama3Scaling)

    @classmethod
    def from_huggingface(cls, fields: Fields) -> Rope:
        """Read either spelling: `rope_parameters` with θ inside, `rope_theta` + `rope_scaling`.

        Raises:
            UnsupportedModelError: a scaling that is not implemented.
            ModelFileError: a field of the wrong kind or range, or two spellings that disagree.
        """
        ropes = [cls._from_group(fields, name) for name in SPELLINGS if fields.group(name)]
        if len(ropes) > 1 and ropes[0] != ropes[1]:
            fields.fail("rope_scaling", "what rope_parameters says, or one of the two alone")
        return ropes[0] if ropes else cls._from_group(fields, None)

    @classmethod
    def from_gguf(cls, fields: Fields, divisors: tuple[float, ...] | None) -> Rope:
        """Read GGUF metadata as llama.cpp does; `divisors` are those of `rope_freqs.weight`.

        A factor without a type is linear. Divisors and scaling multiply.

        Raises:
            UnsupportedModelError: a scaling that is not implemented.
            ModelFileError: a field of the wrong kind or range.
        """
        theta = fields.number("rope.freq_base", 10000.0, low=MIN_THETA)
        scaling = _gguf_scaling(fields)
        factor = fields.number("rope.scaling.attn_factor", 1.0)
        if isinstance(scaling, YarnScaling):
            factor *= scaling.attention_factor
            _check_yarn(fields, "rope.freq_base", theta, scaling)
        return cls(theta, scaling, factor, divisors)

    @classmethod
    def _from_group(cls, fields: Fields, name: str | None) -> Rope:
        settings = fields.group(name) if name else None
        for each in (fields, settings or fields):
            if each.number("partial_rotary_factor", 1.0) != 1.0:
                each.fail("partial_rotary_factor", "1: cullama rotates whole heads")
        theta = fields.number("rope_theta", 10000.0, low=MIN_THETA)
        if settings is None:
            return cls(theta)
        if any(isinstance(value, Mapping) for value in settings.values.values()):
            fields.fail(str(name), "one set of settings for all layers")
        theta = settings.number("rope_theta", theta, low=MIN_THETA)
        scaling = _scaling(settings, fields)
        if isinstance(scaling, YarnScaling):
            _check_yarn(fields, "rope_theta", theta, scaling)
        return cls(theta, scaling, _attention_factor(settings, scaling))

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Return by how many radians each pair is rotated per position, float32 [E / 2]."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        scaled = self._scaled(np.float32(1) / np.float32(self.theta) ** exponents)
        if self.divisors is None:
            return scaled
        divisors: NDArray[np.float32] = np.asarray(self.divisors, np.float32)
        return scaled / divisors

    def _scaled(self, frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
        match self.scaling:
            case LinearScaling(factor):
                return frequencies / np.float32(factor)
            case YarnScaling(factor):
                kept = 1 - self._yarn_ramp(self.scaling, len(frequencies))
                return (kept * frequencies + (1 - kept) * frequencies / factor).astype(np.float32)
            case Llama3Scaling(factor, low, high, original_context):
                # The weight of a kept frequency grows linearly, from 0 at `low` full rotations
                # over the original context to 1 at `high`.
                rotations = original_context * frequencies / (2 * math.pi)
                kept = np.clip((rotations - low) / (high - low), 0, 1)
                scaled = (1 - kept) * frequencies / factor + kept * frequencies
                return scaled.astype(np.float32)
        return frequencies

    def _yarn_ramp(self, yarn: YarnScaling, pairs: int) -> NDArray[np.float32]:
        """Return for each pair how far its frequency is divided: 0 not at all, 1 by the factor."""

        def pair_of(rotations: float) -> float:
            """Return the pair that rotates so often over the original context; it may lie
            between two."""
            ratio = yarn.original_context / (rotations * 2 * math.pi)
            return pairs * math.log(ratio) / math.log(self.theta)

        low, high = pair_of(yarn.beta_fast), pair_of(yarn.beta_slow)
        if yarn.is_truncated:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        ramp = (np.arange(pairs, dtype=np.float32) - low) / max(high - low, 0.001)
        return np.clip(ramp, 0, 1).astype(np.float32)

    def table(self, head_dim: int, positions: int) -> NDArray[np.float32]:
        """Compute (cos, cos, −sin, sin) of every angle, float32 [P, 2E].

        With the sign inside the table, a head is rotated by x · (cos, cos) + swapped(x) · (−sin,
        sin), where `swapped` exchanges its halves. Angles are rounded to float32 before the
        cosine: models were trained with such tables, and references use them.
        """
        angles = np.outer(
            np.arange(positions, dtype=np.float32), self.inverse_frequencies(head_dim)
        )
        factor = np.float32(self.attention_factor)
        cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
        return np.concatenate([cos, cos, -sin, sin], axis=1)


def _scaling(settings: Fields, model: Fields) -> Scaling | None:
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind in ("default", "dynamic"):
        # "dynamic" raises θ only beyond max_position_embeddings, which is the longest context.
        return None
    if kind == "linear":
        return LinearScaling(settings.number("factor"))
    if kind == "llama3":
        low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
        if low >= high:
            settings.fail("low_freq_factor", f"less than high_freq_factor, which is {high:g}")
        original = _original_context(settings, model, 8192)
        return Llama3Scaling(settings.number("factor"), low, high, original)
    if kind == "yarn":
        return _yarn(settings, model)
    raise _unsupported(settings, f"{settings.group_name}rope_type", kind, KINDS)


def _original_context(settings: Fields, model: Fields, default: int) -> int:
    """Return the context before it was stretched; a field beside the scaling's precedes the one
    inside, as in transformers 5."""
    name, context = "original_max_position_embeddings", model.integer(CONTEXT, default)
    return model.integer(name, settings.integer(name, context))


def _yarn(settings: Fields, model: Fields) -> YarnScaling:
    context = model.integer(CONTEXT, 2048)
    original = _original_context(settings, model, context)
    fast = settings.number("beta_fast", 32.0)
    slow = settings.number("beta_slow", 1.0)
    return YarnScaling(
        settings.number("factor", context / original),
        original,
        fast,
        slow,
        settings.flag("truncate", True),
    )


def _check_yarn(fields: Fields, theta_name: str, theta: float, yarn: YarnScaling) -> None:
    """Check that the ends of the ramp can be computed."""
    if theta <= 1:
        fields.fail(theta_name, "a number above 1, as a yarn scaling needs")
    if yarn.beta_slow > yarn.beta_fast:
        raise ModelFileError(
            f"{fields.path}: the beta_slow of a yarn scaling is {yarn.beta_slow:g}, expected at "
            f"most its beta_fast, {yarn.beta_fast:g}"
        )


def _attention_factor(settings: Fields, scaling: Scaling | None) -> float:
    """Return the factor of queries and keys; only yarn has one, as in transformers."""
    if not isinstance(scaling, YarnScaling):
        return 1.0
    weights = [settings.number(name, None, low=-1e12) for name in ("mscale", "mscale_all_dim")]
    numerator, denominator = (magnitude(scaling.factor, weight or 1.0) for weight in weights)
    usual = numerator / denominator if all(weights) else scaling.attention_factor
    return settings.number("attention_factor", usual)


def _gguf_scaling(fields: Fields) -> Scaling | None:
    kind = fields.text("rope.scaling.type", None)
    if kind not in (None, *GGUF_KINDS):
        raise _unsupported(fields, f"{fields.prefix}rope.scaling.type", str(kind), GGUF_KINDS)
    names = ("rope.scaling.factor", "rope.scale_linear")  # the second is the older one
    name = next((name for name in names if name in fields), None)
    if kind == "none" or (kind is None and name is None):
        return None
    found = fields.values.get(f"{fields.prefix}{name}")
    # llama.cpp takes a factor of 0 for none.
    is_zero = type(found) in (int, float) and found == 0
    factor = 1.0 if is_zero else fields.number(name or names[0])
    if kind != "yarn":
        return LinearScaling(factor)
    original = fields.integer("rope.scaling.original_context_length", 0, low=0)
    return YarnScaling(
        factor,
        original or fields.integer("context_length"),
        fields.number("rope.scaling.yarn_beta_fast", 32.0),
        fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def _unsupported(
    fields: Fields, name: str, kind: str, supported: tuple[str, ...]
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{fields.path}: {name} is {short_repr(kind)}, a scaling that is not supported, "
        f"expected one of {', '.join(supported)}"
    )
