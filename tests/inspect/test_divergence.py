"""KL divergence and perplexity: against a plain calculation, and where the result is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.files.tensor import HostArray
from cullama.inspect import divergence as module
from cullama.inspect.divergence import Divergence, divergence, log_softmax

TOKENS, VOCABULARY = 7, 13


def some(seed: int, scale: float = 2.0) -> HostArray:
    draw = np.random.default_rng(seed)
    return (scale * draw.standard_normal((TOKENS, VOCABULARY))).astype(np.float32)


def text(seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, TOKENS).tolist()


def probabilities(logits: HostArray) -> list[list[float]]:
    weights = [[math.exp(float(logit)) for logit in row] for row in logits]
    return [[weight / sum(row) for weight in row] for row in weights]


def test_figures_equal_a_plain_calculation() -> None:
    expected, found, ids = some(1), some(2), text()
    result = divergence(expected, found, ids)
    p, q = probabilities(expected), probabilities(found)
    nats = [
        sum(a * math.log(a / b) for a, b in zip(*rows, strict=True))
        for rows in zip(p, q, strict=True)
    ]
    assert result.nats == pytest.approx(nats, rel=1e-9)
    assert result.mean == pytest.approx(sum(nats) / TOKENS)
    assert result.largest == pytest.approx(max(nats))
    agree = [max(a) == a[b.index(max(b))] for a, b in zip(p, q, strict=True)]
    assert result.same_top == sum(agree) / TOKENS
    assert 0 < sum(agree) < TOKENS
    for side, rows in zip(result.perplexities, (p, q), strict=True):
        likelihood = math.prod(row[after] for row, after in zip(rows, ids[1:], strict=False))
        assert side == pytest.approx(likelihood ** (-1 / (TOKENS - 1)))


def test_the_first_model_is_the_reference() -> None:
    assert divergence(some(1), some(2), text()).mean != pytest.approx(
        divergence(some(2), some(1), text()).mean
    )


def test_equal_predictions_have_no_divergence() -> None:
    same = divergence(some(1), some(1) + 5, text())  # a constant is no difference
    assert same.mean == pytest.approx(0, abs=1e-12)
    assert (same.same_top, same.tokens) == (1, TOKENS)
    assert same.perplexities[0] == pytest.approx(same.perplexities[1])


def test_uniform_predictions_have_the_vocabulary_size_as_perplexity() -> None:
    nothing = np.zeros((TOKENS, VOCABULARY), np.float32)
    assert divergence(nothing, nothing, text()).perplexities == pytest.approx([VOCABULARY] * 2)


def test_large_logits_do_not_overflow() -> None:
    certain = np.full((2, 3), -3e38, np.float32)
    certain[:, 1] = 3e38
    other = np.roll(certain, 1, axis=1)
    assert divergence(certain, certain, [1, 1]).mean == 0
    assert divergence(certain, other, [1, 1]).mean == pytest.approx(6e38, rel=1e-6)
    assert log_softmax(certain)[0, 1] == 0


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_divergence_is_never_negative(seed: int, scale: float) -> None:
    near = some(seed, scale) + some(seed + 1, scale * 1e-7)
    assert divergence(some(seed, scale), near, text()).nats.min() >= 0


@pytest.mark.parametrize("at_once", [1, 2 * VOCABULARY, 3 * VOCABULARY + 1])
def test_results_do_not_depend_on_how_many_rows_are_widened_at_a_time(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    whole = divergence(some(1), some(2), text())
    monkeypatch.setattr(module, "MAX_WIDENED", at_once)
    pieces = divergence(some(1), some(2), text())
    assert pieces.nats.tolist() == whole.nats.tolist()
    assert pieces.as_json() == whole.as_json()


def test_joined_texts_are_weighted_by_their_tokens() -> None:
    parts = [
        divergence(some(1), some(2), text()),
        divergence(some(3)[:2], some(4)[:2], text(1)[:2]),
    ]
    whole = Divergence.joined(parts)
    assert whole.tokens == TOKENS + 2
    assert whole.mean == pytest.approx((TOKENS * parts[0].mean + 2 * parts[1].mean) / (TOKENS + 2))
    # The last token of a text has no next one, so six and one surprises are joined.
    logs = [math.log(part.perplexities[1]) for part in parts]
    assert math.log(whole.perplexities[1]) == pytest.approx((6 * logs[0] + 1 * logs[1]) / 7)


def test_a_text_of_one_token_has_a_divergence_and_no_perplexity() -> None:
    one = divergence(some(1)[:1], some(2)[:1], [3])
    assert one.mean > 0
    assert all(math.isnan(side) for side in one.perplexities)


def test_nan_logits_give_a_nan_divergence() -> None:
    broken = some(2)
    broken[3, 4] = np.nan
    assert math.isnan(divergence(some(1), broken, text()).mean)
