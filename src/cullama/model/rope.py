"""Rotary position embedding (RoPE): by which angle each pair of a head is rotated at a position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. Pairs are half
a head apart (i, i + E/2), as in Hugging Face's checkpoints. The scalings are those that stretch a
context: "linear", Llama 3.1's "llama3", and GGUF's divisors per frequency. It makes the table; the
rotation itself is the operator `rope_and_store`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedModelError
from ..files.fields import Fields
from ..files.regular_file import short_repr

SPELLINGS = ("rope_parameters", "rope_scaling")
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
class DivisorScaling:
    """One divisor for each frequency, as GGUF stores any scaling in `rope_freqs.weight`."""

    divisors: tuple[float, ...]  # [E / 2]


Scaling: TypeAlias = LinearScaling | Llama3Scaling | DivisorScaling


@dataclass(frozen=True)
class Rope:
    """The base of the frequencies, θ, and how they are scaled."""

    theta: float = 10000.0
    scaling: Scaling | None = None

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
        return cls(theta, _scaling(settings, fields))

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Return by how many radians each pair is rotated per position, float32 [E / 2]."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = np.float32(1) / np.float32(self.theta) ** exponents
        match self.scaling:
            case LinearScaling(factor):
                return frequencies / np.float32(factor)
            case DivisorScaling(divisors):
                return frequencies / np.asarray(divisors, np.float32)
            case Llama3Scaling(factor, low, high, original_context):
                # The weight of a kept frequency grows linearly, from 0 at `low` full rotations
                # over the original context to 1 at `high`.
                rotations = original_context * frequencies / (2 * math.pi)
                kept = np.clip((rotations - low) / (high - low), 0, 1)
                scaled = (1 - kept) * frequencies / factor + kept * frequencies
                return scaled.astype(np.float32)
        return frequencies

    def table(self, head_dim: int, positions: int) -> NDArray[np.float32]:
        """Compute (cos, cos, −sin, sin) of every angle, float32 [P, 2E].

        With the sign inside the table, a head is rotated by x · (cos, cos) + swapped(x) · (−sin,
        sin), where `swapped` exchanges its halves. Angles are rounded to float32 before the
        cosine: models were trained with such tables, and references use them.
        """
        angles = np.outer(
            np.arange(positions, dtype=np.float32), self.inverse_frequencies(head_dim)
        )
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([cos, cos, -sin, sin], axis=1)


def _scaling(settings: Fields, model: Fields) -> Scaling | None:
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(settings.number("factor"))
    if kind == "llama3":
        low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
        if low >= high:
            settings.fail("low_freq_factor", f"less than high_freq_factor, which is {high:g}")
        context = model.integer("max_position_embeddings", 8192)
        original = settings.integer("original_max_position_embeddings", context)
        return Llama3Scaling(settings.number("factor"), low, high, original)
    raise UnsupportedModelError(
        f"{settings.path}: {settings.group_name}rope_type is {short_repr(kind)}, a scaling that is "
        "not supported, expected one of default, linear, llama3"
    )
