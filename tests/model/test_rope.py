"""RoPE against complex numbers, and against the published scalings."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.errors import ModelFileError, UnsupportedModelError
from cullama.files.fields import Fields
from cullama.model.rope import DivisorScaling, LinearScaling, Llama3Scaling, Rope, Scaling

Floats = NDArray[np.float64]

LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 8192)  # Llama 3.1
SCALINGS: list[Scaling | None] = [
    None,
    LinearScaling(2.5),
    LLAMA3,
    DivisorScaling(tuple(1 + i / 7 for i in range(32))),
]


def plain_frequencies(theta: float, head_dim: int) -> list[float]:
    return [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]


def turned(x: Floats, table_row: NDArray[np.float32]) -> Floats:
    """A head turned with a row of the table, as its docstring says: [E], [2E] → [E]."""
    cos, sin = np.split(table_row.astype(np.float64), 2)
    swapped = np.concatenate(np.split(x, 2)[::-1])
    turned_head: Floats = x * cos + swapped * sin
    return turned_head


# ------------------------------------------------------------------------------------------ angles


@pytest.mark.parametrize("head_dim", [2, 6, 64, 80, 128])
@pytest.mark.parametrize("theta", [1.0, 10_000.0, 500_000.0, 1e7])
def test_frequencies_fall_from_one_towards_one_over_theta(theta: float, head_dim: int) -> None:
    found = Rope(theta).inverse_frequencies(head_dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_frequencies(theta, head_dim), rtol=2e-6)
    assert found[0] == 1


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("position", [0, 1, 2, 31, 299])
def test_a_rotation_is_a_product_of_complex_numbers(scaling: Scaling | None, position: int) -> None:
    rope = Rope(10_000.0, scaling)
    table = rope.table(64, 300)
    assert table.shape == (300, 128)
    assert table.dtype == np.float32
    x = np.random.default_rng(position).normal(size=64)
    angles = position * rope.inverse_frequencies(64).astype(np.float64)
    pairs = (x[:32] + 1j * x[32:]) * np.exp(1j * angles)
    expected = np.concatenate([pairs.real, pairs.imag])
    np.testing.assert_allclose(turned(x, table[position]), expected, atol=1e-4)


def test_angles_are_rounded_to_float32_before_the_cosine() -> None:
    """Far out this is as large as 0.004; the models were trained with it."""
    rope, position = Rope(10_000.0), 99_991
    frequencies = rope.inverse_frequencies(8)
    angles = [float(np.float32(position) * frequency) for frequency in frequencies]
    last = rope.table(8, position + 1)[position]
    expected = [*map(math.cos, angles)] * 2 + [-math.sin(a) for a in angles]
    np.testing.assert_allclose(last, [*expected, *map(math.sin, angles)], atol=1e-6)


@pytest.mark.parametrize("head_dim", [2, 64])
def test_position_zero_rotates_nothing(head_dim: int) -> None:
    x = np.random.default_rng(0).normal(size=head_dim)
    np.testing.assert_array_equal(turned(x, Rope().table(head_dim, 1)[0]), x)


def test_a_table_is_the_beginning_of_a_longer_one() -> None:
    np.testing.assert_array_equal(Rope().table(16, 10), Rope().table(16, 50)[:10])
    assert Rope().table(16, 0).shape == (0, 32)


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_a_rotation_keeps_lengths(scaling: Scaling | None) -> None:
    table, x = Rope(10_000.0, scaling).table(64, 500), np.random.default_rng(1).normal(size=64)
    for position in (1, 77, 499):
        pairs = turned(x, table[position]).reshape(2, 32)
        np.testing.assert_allclose(
            np.hypot(*pairs), np.hypot(*x.reshape(2, 32)), rtol=1e-6, atol=1e-6
        )


TABLES = [Rope(10_000.0, scaling).table(64, 700) for scaling in SCALINGS]


@given(
    seed=st.integers(0, 2**32 - 1),
    which=st.integers(0, len(TABLES) - 1),
    apart=st.integers(0, 199),
    first=st.integers(0, 500),
    second=st.integers(0, 500),
)
def test_a_score_depends_on_the_distance_alone(
    seed: int, which: int, apart: int, first: int, second: int
) -> None:
    q, k = np.random.default_rng(seed).normal(size=(2, 64))
    table = TABLES[which]
    scores = [
        turned(q, table[start + apart]) @ turned(k, table[start]) for start in (first, second)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)


# ---------------------------------------------------------------------------------------- scalings


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.5])
def test_linear_scaling_divides_all_frequencies(factor: float) -> None:
    scaled = Rope(10_000.0, LinearScaling(factor))
    expected = [f / factor for f in plain_frequencies(10_000.0, 64)]
    np.testing.assert_allclose(scaled.inverse_frequencies(64), expected, rtol=2e-6)
    # Position 2p stretched twofold stands where position p stood.
    twofold = Rope(10_000.0, LinearScaling(2.0)).table(64, 60)
    np.testing.assert_allclose(twofold[::2], Rope().table(64, 30), atol=1e-5)


def test_divisors_divide_each_frequency() -> None:
    divisors = (1.0, 2.0, 8.0, 0.5)
    found = Rope(100.0, DivisorScaling(divisors)).inverse_frequencies(8)
    expected = [f / d for f, d in zip(plain_frequencies(100.0, 8), divisors, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def published_llama3(frequency: float, scaling: Llama3Scaling) -> float:
    """`apply_scaling` of Meta's llama-models, for one frequency."""
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_frequency_factor:
        return frequency
    if wavelength > scaling.original_context / scaling.low_frequency_factor:
        return frequency / scaling.factor
    smooth = scaling.original_context / wavelength - scaling.low_frequency_factor
    smooth /= scaling.high_frequency_factor - scaling.low_frequency_factor
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA3,
        Llama3Scaling(32.0, 1.0, 4.0, 8192),  # Llama 3.2
        Llama3Scaling(4.0, 2.0, 16.0, 1024),
        Llama3Scaling(1.0, 1.0, 4.0, 8192),
    ],
)
def test_llama3_scaling_is_the_published_formula(scaling: Llama3Scaling, theta: float) -> None:
    plain = plain_frequencies(theta, 128)
    expected = [published_llama3(frequency, scaling) for frequency in plain]
    found = Rope(theta, scaling).inverse_frequencies(128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if scaling.factor > 1:
        shares = {
            "kept" if e == p else "slowed" if e == p / scaling.factor else "blended"
            for e, p in zip(expected, plain, strict=True)
        }
        assert shares == {"kept", "slowed", "blended"}


@pytest.mark.parametrize(("low", "high"), [(4.0, 4.0), (4.0, 1.0)])
def test_llama3_scaling_without_a_band_to_blend_is_refused(low: float, high: float) -> None:
    settings = {**LLAMA3_SETTINGS, "low_freq_factor": low, "high_freq_factor": high}
    with pytest.raises(ModelFileError, match=r"low_freq_factor is 4\.0, expected less than"):
        rope_of(rope_scaling={"rope_type": "llama3", **settings})


# ---------------------------------------------------------------------------------------- spellings


def rope_of(**values: Any) -> Rope:
    return Rope.from_huggingface(Fields(Path("config.json"), values))


LLAMA3_SETTINGS = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

SPELLINGS: list[tuple[dict[str, Any], Rope]] = [
    ({}, Rope(10_000.0)),
    ({"rope_theta": 5e5}, Rope(5e5)),
    ({"rope_theta": 1000000}, Rope(1e6)),
    ({"rope_theta": 5e5, "rope_scaling": None}, Rope(5e5)),
    ({"rope_theta": 5e5, "rope_scaling": {}}, Rope(5e5)),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, Rope(5e5)),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(10_000.0, LinearScaling(2.0))),
    (
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        Rope(5e5, LinearScaling(4.0)),
    ),
    (
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_SETTINGS}},
        Rope(5e5, LLAMA3),
    ),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, Rope(5e5)),
    ({"rope_parameters": {"rope_theta": 5e5}}, Rope(5e5)),
    (
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3_SETTINGS}},
        Rope(5e5, LLAMA3),
    ),
    (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5e5},
        Rope(5e5, LinearScaling(2.0)),
    ),
    (  # the one inside counts
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 5.0},
        Rope(7.0),
    ),
    (  # where both types are given, the newer word counts
        {"rope_scaling": {"rope_type": "linear", "type": "default", "factor": 3.0}},
        Rope(10_000.0, LinearScaling(3.0)),
    ),
    ({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 1.0}}, Rope(5e5)),
]


@pytest.mark.parametrize(("values", "expected"), SPELLINGS)
def test_both_spellings_are_understood(values: dict[str, Any], expected: Rope) -> None:
    assert rope_of(**values) == expected


def test_the_original_context_is_the_model_s_where_it_is_not_told() -> None:
    settings = {k: v for k, v in LLAMA3_SETTINGS.items() if k[:8] != "original"}
    rope = rope_of(max_position_embeddings=4096, rope_scaling={"rope_type": "llama3", **settings})
    assert rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 4096)
    rope = rope_of(rope_scaling={"rope_type": "llama3", **settings})
    assert rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


def test_two_spellings_that_disagree_are_refused() -> None:
    linear = {"rope_type": "linear", "factor": 2.0}
    assert rope_of(rope_parameters=linear, rope_scaling=linear).scaling == LinearScaling(2.0)
    with pytest.raises(ModelFileError, match=r"rope_scaling is .*, expected what rope_parameters"):
        rope_of(rope_parameters={"rope_theta": 10000.0}, rope_scaling=linear)
    with pytest.raises(UnsupportedModelError, match="yarn"):  # whichever comes first
        rope_of(rope_parameters=linear, rope_scaling={"rope_type": "yarn", "factor": 2.0})


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "su", ""])
@pytest.mark.parametrize("group", ["rope_scaling", "rope_parameters"])
def test_a_scaling_that_is_not_known_is_named(group: str, kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{kind!r}, .*not supported.*llama3"):
        rope_of(**{group: {"rope_type": kind, "factor": 2.0}})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor is 0"),
        ({"rope_scaling": {"type": "linear", "factor": None}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_scaling.rope_type is 3"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "rope_scaling.low_freq_factor is missing",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor is 0.5",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=f"config.json: {re.escape(named)}, expected"):
        rope_of(**values)


def test_rope_parameters_per_layer_type_are_refused() -> None:
    """As transformers writes them for models with `layer_types`."""
    by_kind = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}
    with pytest.raises((ModelFileError, UnsupportedModelError)):
        rope_of(rope_parameters=by_kind)
