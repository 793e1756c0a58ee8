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
from cullama.model.rope import LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling

Floats = NDArray[np.float64]

LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 8192)  # Llama 3.1
YARN = YarnScaling(4.0, 64)
DIVISORS = tuple(1 + i / 7 for i in range(32))
SCALINGS: list[Scaling | None] = [None, LinearScaling(2.5), LLAMA3, YARN]
ROPES = [*(Rope(10_000.0, it) for it in SCALINGS), Rope(10_000.0, divisors=DIVISORS)]


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


@pytest.mark.parametrize("rope", ROPES, ids=str)
@pytest.mark.parametrize("position", [0, 1, 2, 31, 299])
def test_a_rotation_is_a_product_of_complex_numbers(rope: Rope, position: int) -> None:
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


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_a_rotation_keeps_lengths(rope: Rope) -> None:
    table, x = rope.table(64, 500), np.random.default_rng(1).normal(size=64)
    for position in (1, 77, 499):
        pairs = turned(x, table[position]).reshape(2, 32)
        np.testing.assert_allclose(
            np.hypot(*pairs), np.hypot(*x.reshape(2, 32)), rtol=1e-6, atol=1e-6
        )


TABLES = [rope.table(64, 700) for rope in ROPES]


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
    found = Rope(100.0, divisors=divisors).inverse_frequencies(8)
    expected = [f / d for f, d in zip(plain_frequencies(100.0, 8), divisors, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_divisors_and_a_scaling_multiply(scaling: Scaling | None) -> None:
    """As in llama.cpp, which divides an angle before it is scaled."""
    found = Rope(10_000.0, scaling, divisors=DIVISORS).inverse_frequencies(64)
    alone = Rope(10_000.0, scaling).inverse_frequencies(64)
    np.testing.assert_allclose(found, alone / np.asarray(DIVISORS), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.25])
def test_an_attention_factor_scales_every_rotation(factor: float) -> None:
    plain = Rope(10_000.0, YARN).table(64, 40)
    np.testing.assert_allclose(
        Rope(10_000.0, YARN, factor).table(64, 40), plain * factor, rtol=1e-6, atol=1e-7
    )


def published_yarn(pair: int, head_dim: int, theta: float, yarn: YarnScaling) -> float:
    """The frequency of a pair, as section 3.2 of the paper and its code have it."""

    def dimension_of(rotations: float) -> float:
        length = yarn.original_context
        return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow)
    if yarn.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = min(max((pair - low) / (high - low), 0), 1)
    plain = theta ** (-2 * pair / head_dim)
    return plain / yarn.factor * ramp + plain * (1 - ramp)


@pytest.mark.parametrize("theta", [10_000.0, 1e6])
@pytest.mark.parametrize(
    "yarn",
    [
        YarnScaling(4.0, 32768),  # as Qwen's pages propose it
        YarnScaling(16.0, 4096, 32.0, 1.0),
        YarnScaling(2.0, 8192, 24.0, 2.0, is_truncated=False),
        YarnScaling(8.0, 64),  # the ramp begins with the first pair
    ],
)
def test_yarn_is_the_published_formula(yarn: YarnScaling, theta: float) -> None:
    expected = [published_yarn(pair, 128, theta, yarn) for pair in range(64)]
    found = Rope(theta, yarn).inverse_frequencies(128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[-1] == pytest.approx(theta ** (-126 / 128) / yarn.factor, rel=1e-5)
    assert yarn.attention_factor == pytest.approx(0.1 * math.log(yarn.factor) + 1)


def test_yarn_keeps_attention_as_it_is_where_nothing_is_stretched() -> None:
    assert YarnScaling(1.0, 64).attention_factor == 1
    np.testing.assert_allclose(
        Rope(1e4, YarnScaling(1.0, 64)).inverse_frequencies(64),
        Rope(1e4).inverse_frequencies(64),
        rtol=1e-6,
    )


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
    # Beyond the context only, which nothing goes beyond.
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, Rope(10_000.0)),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        Rope(10_000.0, YarnScaling(4.0, 32), 0.1 * math.log(4) + 1),
    ),
    (
        {"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        Rope(10_000.0, YarnScaling(4.0, 64), 0.1 * math.log(4) + 1),
    ),
    (  # the factor that the contexts say
        {
            "max_position_embeddings": 64,
            "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 32},
        },
        Rope(10_000.0, YarnScaling(2.0, 32), 0.1 * math.log(2) + 1),
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 0.8,
                          "beta_fast": 24, "beta_slow": 2, "truncate": False}},
        Rope(10_000.0, YarnScaling(4.0, 2048, 24.0, 2.0, is_truncated=False), 0.8),
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5}},
        Rope(
            10_000.0,
            YarnScaling(40.0, 2048),
            (0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1),
        ),
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 0.7, "mscale_all_dim": 0}},
        Rope(10_000.0, YarnScaling(40.0, 2048), 0.1 * math.log(40) + 1),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), SPELLINGS)
def test_both_spellings_are_understood(values: dict[str, Any], expected: Rope) -> None:
    assert rope_of(**values) == expected


def test_the_original_context_is_the_model_s_where_it_is_not_told() -> None:
    settings = {k: v for k, v in LLAMA3_SETTINGS.items() if k[:8] != "original"}
    rope = rope_of(max_position_embeddings=4096, rope_scaling={"rope_type": "llama3", **settings})
    assert rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 4096)
    rope = rope_of(rope_scaling={"rope_type": "llama3", **settings})
    assert rope.scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    "kind", [{"type": "yarn", "factor": 4.0}, {"type": "llama3", **LLAMA3_SETTINGS}]
)
@pytest.mark.parametrize("inside", [{}, {"original_max_position_embeddings": 128}])
def test_an_original_context_beside_the_scaling_precedes_the_one_inside(
    kind: dict[str, Any], inside: dict[str, Any]
) -> None:
    """As in transformers 5."""
    scaling = rope_of(
        original_max_position_embeddings=32,
        max_position_embeddings=512,
        rope_scaling={**kind, **inside},
    ).scaling
    assert isinstance(scaling, YarnScaling | Llama3Scaling)
    assert scaling.original_context == 32


def test_two_spellings_that_disagree_are_refused() -> None:
    linear = {"rope_type": "linear", "factor": 2.0}
    assert rope_of(rope_parameters=linear, rope_scaling=linear).scaling == LinearScaling(2.0)
    with pytest.raises(ModelFileError, match=r"rope_scaling is .*, expected what rope_parameters"):
        rope_of(rope_parameters={"rope_theta": 10000.0}, rope_scaling=linear)
    with pytest.raises(UnsupportedModelError, match="longrope"):  # whichever comes first
        rope_of(rope_parameters=linear, rope_scaling={"rope_type": "longrope", "factor": 2.0})


@pytest.mark.parametrize("kind", ["longrope", "su", "mrope", ""])
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
        ({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2}}, "rope_theta is 1.0"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}},
            "the beta_slow of a yarn scaling is 2",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": -1}},
            "rope_scaling.attention_factor is -1",
        ),
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


# -------------------------------------------------------------------------------------------- GGUF


def rope_of_gguf(divisors: tuple[float, ...] | None = None, **values: Any) -> Rope:
    metadata = {f"llama.{name.replace('__', '.')}": value for name, value in values.items()}
    fields = Fields(Path("x.gguf"), {"llama.context_length": 64, **metadata}, prefix="llama.")
    return Rope.from_gguf(fields, divisors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope.scaling.factor", np.array([1.0, 2.0])),
        ("rope.scaling.factor", np.array([0.0])),
        ("rope.scaling.factor", False),
        ("rope.freq_base", 1e-300),  # its frequencies are infinite
        ("rope.freq_base", 0.0),
    ],
)
def test_a_gguf_with_a_field_of_another_kind_or_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=rf"x.gguf: llama.{name} is .*, expected a number"):
        rope_of_gguf(**{name.replace(".", "__"): value})


LINEAR4 = Rope(10_000.0, LinearScaling(4.0))
YARN4 = Rope(10_000.0, YarnScaling(4.0, 32), 0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Rope(10_000.0)),
        ({"rope__freq_base": 5e5}, Rope(5e5)),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, Rope(10_000.0)),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, LINEAR4),
        ({"rope__scaling__factor": 4.0}, LINEAR4),
        ({"rope__scale_linear": 4.0}, LINEAR4),
        ({"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, LINEAR4),
        ({"rope__scaling__factor": 0.0}, Rope(10_000.0, LinearScaling(1.0))),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
             "rope__scaling__original_context_length": 32},
            YARN4,
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0},
            Rope(10_000.0, YarnScaling(4.0, 64), 0.1 * math.log(4) + 1),
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 1.0,
             "rope__scaling__yarn_beta_fast": 16.0, "rope__scaling__yarn_beta_slow": 2.0,
             "rope__scaling__attn_factor": 1.5},
            Rope(10_000.0, YarnScaling(1.0, 64, 16.0, 2.0), 1.5),
        ),
        ({"rope__scaling__attn_factor": 0.5}, Rope(10_000.0, None, 0.5)),
    ],
)  # fmt: skip
def test_gguf_metadata_is_read_as_llama_cpp_reads_it(
    values: dict[str, Any], expected: Rope
) -> None:
    assert rope_of_gguf(**values) == expected
    divided = rope_of_gguf(divisors=(1.0, 2.0), **values)
    assert divided.divisors == (1.0, 2.0)
    assert divided.scaling == expected.scaling


@pytest.mark.parametrize("kind", ["longrope", "su", ""])
def test_a_scaling_of_a_gguf_that_is_not_known_is_named(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"type is {kind!r}, .*none, linear, yarn"):
        rope_of_gguf(rope__scaling__type=kind, rope__scaling__factor=2.0)
