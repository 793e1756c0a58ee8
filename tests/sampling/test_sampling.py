"""From a row of logits to a token: every step by hand, by law, and by what is drawn in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.errors import NumericalError, UsageError
from cullama.sampling.draw import Draw, Drawn
from cullama.sampling.params import MAX_LOGPROBS, SamplingParams
from cullama.sampling.philox import uniform
from cullama.sampling.sampler import (
    adjusted,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    likeliest,
    logprobs_of,
    pick,
    sample,
    sample_row,
    softmax,
)

INFINITY = math.inf
LARGEST = float(np.finfo(np.float32).max)


def row(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def draw(
    params: SamplingParams | None = None,
    seed: int = 0,
    index: int = 0,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    **wishes: Any,
) -> Draw:
    return Draw(params or SamplingParams(**wishes), seed, index, [*prompt, *answer], len(prompt))


def tokens_drawn(logits: NDArray[np.float32], times: int = 200, **wishes: Any) -> set[int]:
    """Every token that comes up; what a filter leaves is seen here, not what it promises."""
    params = SamplingParams(**wishes)
    return {sample_row(logits, draw(params, index=index)).token for index in range(times)}


# ---------------------------------------------------------------------------- filters, four numbers


def test_top_k_by_hand() -> None:
    weights = row(1, 4, 2, 3)
    keep_top_k(weights, 2)
    assert weights.tolist() == [0, 4, 0, 3]


@pytest.mark.parametrize("k", [4, 5, 1000])
def test_a_large_top_k_keeps_all(k: int) -> None:
    weights = row(1, 4, 2, 3)
    keep_top_k(weights, k)
    assert weights.tolist() == [1, 4, 2, 3]


def test_top_k_keeps_the_lower_ids_of_equals() -> None:
    weights = row(2, 3, 2, 2)
    keep_top_k(weights, 2)
    assert weights.tolist() == [2, 3, 0, 0]


@pytest.mark.parametrize("k", [1, 2, 50, 2500, 4999])
def test_top_k_of_a_large_vocabulary(k: int) -> None:
    numbers = np.random.default_rng(k).permutation(5000)
    weights = numbers.astype(np.float32)
    keep_top_k(weights, k)
    np.testing.assert_array_equal(weights, np.where(numbers >= 5000 - k, numbers, 0))


def test_top_p_by_hand() -> None:
    for share, kept in [(0.3, [0, 4, 0, 0]), (0.5, [0, 4, 0, 3]), (0.71, [0, 4, 2, 3])]:
        weights = row(1, 4, 2, 3)
        keep_top_p(weights, share)
        assert weights.tolist() == kept


def test_top_p_stops_where_the_share_is_just_reached() -> None:
    weights = row(1, 4, 1, 2)
    keep_top_p(weights, 0.5)
    assert weights.tolist() == [0, 4, 0, 0]
    weights = row(1, 4, 1, 2)
    keep_top_p(weights, 0.75)
    assert weights.tolist() == [0, 4, 0, 2]


def test_top_p_keeps_the_lower_ids_of_equals() -> None:
    weights = row(1, 1, 1, 1)
    keep_top_p(weights, 0.5)
    assert weights.tolist() == [1, 1, 0, 0]


def test_min_p_by_hand() -> None:
    weights = row(1, 4, 2, 3)
    keep_min_p(weights, 0.5)
    assert weights.tolist() == [0, 4, 2, 3]  # exactly half is enough
    keep_min_p(weights, 0.51)
    assert weights.tolist() == [0, 4, 0, 3]
    keep_min_p(weights, 1)
    assert weights.tolist() == [0, 4, 0, 0]


def test_softmax_by_hand() -> None:
    scores = row(0, math.log(2), math.log(4), math.log(8))
    assert softmax(scores, 1).tolist() == pytest.approx([1 / 15, 2 / 15, 4 / 15, 8 / 15])
    assert softmax(scores, 0.5).tolist() == pytest.approx([1 / 85, 4 / 85, 16 / 85, 64 / 85])
    assert softmax(scores, 2)[3] / softmax(scores, 2)[1] == pytest.approx(2)
    assert scores.tolist() == row(0, math.log(2), math.log(4), math.log(8)).tolist()


def test_pick_by_hand() -> None:
    weights = row(0, 1, 0, 3)
    expected = {0.0: 1, 0.1: 1, 0.249: 1, 0.25: 3, 0.5: 3, 1 - 2**-53: 3}
    assert {number: pick(weights, number) for number in expected} == expected


def test_pick_never_takes_a_token_of_no_weight() -> None:
    for weights in (row(0, 0, 1, 0, 0), row(1e-30, 0), row(0, 1e-45, 0)):
        for number in (0.0, 0.5, 1 - 2**-53):
            assert weights[pick(weights, number)] > 0


# ------------------------------------------------------------------------------ filters, their laws

# Whole numbers: their sums are exact, so that the laws need no tolerance.
whole_weights = st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(any)


def by_rank(weights: Sequence[float]) -> list[int]:
    """Ids, the likeliest first, equals by id."""
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


@given(whole_weights, st.integers(1, 45))
def test_top_k_keeps_the_first_k_by_rank(numbers: list[int], k: int) -> None:
    weights = row(*numbers)
    keep_top_k(weights, k)
    kept = set(by_rank(numbers)[:k])
    assert weights.tolist() == [n if i in kept else 0 for i, n in enumerate(numbers)]


@given(whole_weights, st.integers(1, 63))
def test_top_p_keeps_the_smallest_set_that_reaches_the_share(
    numbers: list[int], sixty_fourths: int
) -> None:
    weights = row(*numbers)
    keep_top_p(weights, sixty_fourths / 64)
    reached, kept = 0, set()
    for token in by_rank(numbers):
        kept.add(token)
        reached += numbers[token]
        if reached * 64 >= sixty_fourths * sum(numbers):
            break
    assert weights.tolist() == [n if i in kept else 0 for i, n in enumerate(numbers)]


@given(whole_weights, st.integers(0, 64))
def test_min_p_keeps_all_that_are_likely_enough(numbers: list[int], sixty_fourths: int) -> None:
    weights = row(*numbers)
    keep_min_p(weights, sixty_fourths / 64)
    least = sixty_fourths * max(numbers)
    assert weights.tolist() == [n if n * 64 >= least else 0 for n in numbers]


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_top_p_of_a_large_vocabulary_is_that_of_a_full_sort(share: float, spread: float) -> None:
    logits = np.random.default_rng(5).normal(size=50_000).astype(np.float32) * np.float32(spread)
    weights = softmax(logits, 1)
    in_order = weights[np.argsort(-weights, kind="stable")]
    keep_top_p(weights, share)
    count = np.count_nonzero(weights)
    np.testing.assert_array_equal(np.sort(weights)[::-1][:count], in_order[:count])
    reached = np.cumsum(in_order, dtype=np.float64) / np.sum(in_order, dtype=np.float64)
    # The sum of 50,000 numbers is itself taken in float32.
    assert reached[count - 1] > share - 1e-6
    assert count == 1 or reached[count - 2] < share + 1e-6


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.floats(0.01, 100))
def test_softmax_is_a_distribution_in_the_order_of_the_scores(
    scores: list[float], temperature: float
) -> None:
    weights = softmax(row(*scores), temperature)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert all(weight >= 0 for weight in weights)
    order = np.argsort(scores, kind="stable")
    assert np.all(np.diff(weights[order]) >= 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9).filter(any), st.integers(0, 999))
def test_pick_gives_each_token_its_share(numbers: list[int], thousandths: int) -> None:
    target, reached = thousandths / 1000 * sum(numbers), 0
    found = pick(row(*numbers), thousandths / 1000)
    for number in numbers[: found + 1]:
        reached += number
    assert reached - numbers[found] <= target < reached


@pytest.mark.parametrize("size", [1, 4, 32000])
def test_a_tiny_top_p_of_equals_keeps_the_first(size: int) -> None:
    assert tokens_drawn(np.zeros(size, np.float32), times=3, top_p=1e-8) == {0}


# ------------------------------------------------------------------------------- bias and penalties


def naively_adjusted(logits: Sequence[float], one: Draw) -> list[float]:
    """Bias, then penalties, token by token in float64."""
    params, scores = one.params, [float(x) for x in logits]
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    answer = one.tokens[one.prompt_length :]
    for token in set(one.tokens):
        penalty = params.repetition_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    for token in set(answer):
        scores[token] -= params.presence_penalty
        for _ in range(list(answer).count(token)):
            scores[token] -= params.frequency_penalty
    return scores


token_ids = st.integers(0, 7)


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=8, max_size=8),
    prompt=st.lists(token_ids, max_size=12),
    answer=st.lists(token_ids, max_size=12),
    bias=st.dictionaries(token_ids, st.floats(-100, 100), max_size=4),
    repetition=st.floats(0.2, 5) | st.just(1.0),
    presence=st.floats(-3, 3) | st.just(0.0),
    frequency=st.floats(-3, 3) | st.just(0.0),
)
def test_bias_and_penalties_are_those_of_a_naive_loop(
    logits: list[float],
    prompt: list[int],
    answer: list[int],
    bias: dict[int, float],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    one = draw(
        prompt=prompt,
        answer=answer,
        logit_bias=bias,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    before = row(*logits)
    found = adjusted(before, one)
    np.testing.assert_allclose(found, naively_adjusted(logits, one), rtol=1e-5, atol=1e-4)
    assert before.tolist() == logits


def test_penalties_by_hand() -> None:
    logits = row(2, -2, 5, 7)
    one = draw(prompt=[0], answer=[1, 1], repetition_penalty=2)
    assert adjusted(logits, one).tolist() == [1, -4, 5, 7]
    one = draw(prompt=[0], answer=[1, 1, 2], presence_penalty=0.5)
    assert adjusted(logits, one).tolist() == [2, -2.5, 4.5, 7]
    one = draw(prompt=[0], answer=[1, 1, 2], frequency_penalty=0.5)
    assert adjusted(logits, one).tolist() == [2, -3, 4.5, 7]
    one = draw(logit_bias={3: -10, 0: 1})
    assert adjusted(logits, one).tolist() == [3, -2, 5, -3]


def test_a_penalised_token_that_was_impossible_stays_impossible() -> None:
    one = draw(prompt=[0], answer=[0], repetition_penalty=1.5, presence_penalty=-2.0)
    assert adjusted(row(-INFINITY, 1), one).tolist() == [-INFINITY, 1]


@pytest.mark.parametrize("temperature", [0, 1])
def test_bias_and_penalties_reach_the_token(temperature: float) -> None:
    logits = row(5, 1, 0, 0)
    assert tokens_drawn(logits, 20, temperature=temperature, logit_bias={2: 100}) == {2}
    for penalty in ("presence_penalty", "frequency_penalty"):
        penalties: dict[str, Any] = {penalty: 100.0}
        params = SamplingParams(temperature=temperature, **penalties)
        tokens = {sample_row(logits, draw(params, answer=[0], index=i)).token for i in range(20)}
        assert 0 not in tokens
    params = SamplingParams(temperature=temperature, repetition_penalty=1e-6)
    tokens = {sample_row(logits, draw(params, prompt=[1], index=i)).token for i in range(20)}
    assert tokens == {1}


def test_a_bias_beyond_the_vocabulary_is_named() -> None:
    with pytest.raises(UsageError, match=r"logit_bias names token 4, expected below 4"):
        sample_row(row(1, 2, 3, 4), draw(logit_bias={4: 1.0}))


# ---------------------------------------------------------------------------------- the whole chain


def naive_probabilities(logits: Sequence[float], one: Draw) -> list[float]:
    """The chain in float64, renormalised after each step, by plain loops."""
    params = one.params
    scores = naively_adjusted(logits, one)
    best = max(scores)
    weights = [math.exp((score - best) / params.temperature) for score in scores]
    if params.top_k:
        kept = by_rank(weights)[: params.top_k]
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    reached, kept = 0.0, []
    for token in by_rank(weights):
        kept.append(token)
        reached += weights[token] / sum(weights)
        if reached >= params.top_p:
            break
    if params.top_p < 1:
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    weights = [w if w >= params.min_p * max(weights) else 0.0 for w in weights]
    return [w / sum(weights) for w in weights]


@settings(max_examples=200)
@given(
    logits=st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=8, unique=True),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 1023),
    answer=st.lists(st.integers(0, 1), max_size=5),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 9),
    top_p=st.floats(0.1, 1),
    min_p=st.floats(0, 0.9),
    presence=st.sampled_from([0.0, 1.5]),
    bias=st.dictionaries(st.integers(0, 1), st.floats(-3, 3)),
)
def test_a_token_is_where_its_number_falls_in_the_naive_distribution(
    logits: list[float],
    seed: int,
    index: int,
    answer: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    presence: float,
    bias: Mapping[int, float],
) -> None:
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        presence_penalty=presence,
        logit_bias=bias,
    )
    one = draw(params, seed, index, answer=answer)
    number = uniform(seed, len(answer), index)
    # Not where float32 may see it on the other side of a border.
    for nudge in (1 - 1e-4, 1 + 1e-4):
        nudged = replace(params, top_p=min(1, top_p * nudge), min_p=min(1, min_p * nudge))
        moved = replace_params(one, nudged)
        assume(naive_probabilities(logits, moved) == naive_probabilities(logits, one))
    borders = np.cumsum(naive_probabilities(logits, one))
    assume(np.abs(borders - number).min() > 1e-4)
    assert sample_row(row(*logits), one).token == int(np.searchsorted(borders, number))


def replace_params(one: Draw, params: SamplingParams) -> Draw:
    return one._replace(params=params)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("over", ["steps", "samples", "seeds"])
def test_tokens_come_as_often_as_they_should(wishes: dict[str, Any], over: str) -> None:
    logits = row(0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, -2.0)
    params, times = SamplingParams(**wishes), 1500
    draws_over: dict[str, Callable[[int], Draw]] = {
        "steps": lambda i: draw(params, seed=42, answer=range(i)),
        "samples": lambda i: draw(params, seed=42, index=i),
        "seeds": lambda i: draw(params, seed=i),
    }
    draws = draws_over[over]
    counts = Counter(sample_row(logits, draws(i)).token for i in range(times))
    shares = naive_probabilities(logits.tolist(), draws(0))
    possible = [token for token, share in enumerate(shares) if share]
    assert set(counts) <= set(possible)
    statistic = sum((counts[i] - times * shares[i]) ** 2 / (times * shares[i]) for i in possible)
    freedom = len(possible) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


PROBABILITIES = row(*np.log([0.4, 0.3, 0.2, 0.1]))


def test_top_k_comes_before_top_p() -> None:
    """Of the two that top-k leaves the first has 4/7; of all it has 4/10, less than a half."""
    assert tokens_drawn(PROBABILITIES, top_p=0.5) == {0, 1}
    assert tokens_drawn(PROBABILITIES, top_p=0.5, top_k=2) == {0}


def test_temperature_comes_before_top_p_and_min_p() -> None:
    assert tokens_drawn(PROBABILITIES, 500, top_p=0.85) == {0, 1, 2}
    assert tokens_drawn(PROBABILITIES, 500, top_p=0.85, temperature=50.0) == {0, 1, 2, 3}
    assert tokens_drawn(PROBABILITIES, 500, top_p=0.85, temperature=0.4) == {0, 1}
    assert tokens_drawn(PROBABILITIES, 500, min_p=0.4) == {0, 1, 2}
    assert tokens_drawn(PROBABILITIES, 500, min_p=0.4, temperature=50.0) == {0, 1, 2, 3}


def test_bias_comes_before_the_filters() -> None:
    assert tokens_drawn(PROBABILITIES, top_k=1, logit_bias={3: 5.0}) == {3}
    assert tokens_drawn(PROBABILITIES, top_p=0.7, logit_bias={0: -100.0}) == {1, 2}


def test_the_same_draw_is_the_same_token() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    for step in (0, 1, 4):
        first, second = (
            sample_row(logits, draw(seed=9, index=2, answer=[0] * step)) for _ in range(2)
        )
        assert first == second
    drawn = {sample_row(logits, draw(seed=9, answer=range(step))).token for step in range(50)}
    assert len(drawn) > 25


def test_the_random_number_depends_on_the_position_not_on_the_tokens() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    one = sample_row(logits, draw(seed=9, prompt=[1, 2], answer=[3, 4]))
    assert one == sample_row(logits, draw(seed=9, prompt=[5], answer=[6, 7]))


def test_the_logits_stay_as_they_were() -> None:
    logits = np.random.default_rng(1).normal(size=100).astype(np.float32)
    before = logits.copy()
    params = SamplingParams(
        temperature=0.7, top_k=9, top_p=0.9, min_p=0.1, repetition_penalty=1.2, logprobs=3
    )
    sample_row(logits, draw(params, prompt=[1], answer=[2]))
    sample_row(logits, draw(temperature=0.7, top_k=9))
    np.testing.assert_array_equal(logits, before)


def test_rows_go_with_their_draws() -> None:
    logits = np.stack([row(9, 0, 0), row(0, 0, 9), row(0, 9, 0)])
    drawn = sample(logits, [draw(temperature=0), draw(temperature=0, logprobs=0), draw(seed=1)])
    rows = [one for one in drawn if isinstance(one, Drawn)]
    assert [one.token for one in rows] == [0, 2, 1]
    assert [one.logprobs is None for one in rows] == [True, False, True]
    with pytest.raises(ValueError, match="zip"):
        sample(logits, [draw()] * 2)


# -------------------------------------------------------------------------------------------- masks


@given(st.data())
def test_a_masked_draw_is_that_of_logits_made_impossible(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70), "vocabulary")
    levels = data.draw(st.lists(st.integers(-6, 6), min_size=size, max_size=size), "logits")
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size), "allowed"))
    allowed[data.draw(st.integers(0, size - 1), "one")] = True
    mask = np.packbits(np.pad(allowed, (0, -size % 32)), bitorder="little").tobytes()
    logits = row(*levels) / np.float32(2)
    impossible = np.where(allowed, logits, np.float32(-np.inf)).astype(np.float32)
    plain = draw(
        seed=data.draw(st.integers(0, 99), "seed"),
        prompt=[0],
        answer=[0] * data.draw(st.integers(0, 3), "answer"),
        temperature=data.draw(st.sampled_from([0, 0.5, 1, 50]), "temperature"),
        top_k=data.draw(st.integers(0, 9), "top_k"),
        top_p=data.draw(st.sampled_from([1.0, 0.9, 0.3]), "top_p"),
        min_p=data.draw(st.sampled_from([0.0, 0.1, 0.9]), "min_p"),
        repetition_penalty=data.draw(st.sampled_from([1.0, 2.0, 0.5]), "repetition"),
        frequency_penalty=data.draw(st.sampled_from([0.0, 1.5]), "frequency"),
        logit_bias={0: data.draw(st.sampled_from([0.0, 5.0, 1e6, -1e6]), "bias")},
    )
    drawn = sample_row(logits, plain._replace(mask=mask))
    assert drawn.token == sample_row(impossible, plain).token
    assert allowed[drawn.token]


def test_logprobs_know_nothing_of_a_mask() -> None:
    masked = draw(logprobs=2, temperature=0)._replace(mask=b"\x04\0\0\0")
    drawn = sample_row(row(3, 2, 1), masked)
    assert drawn.token == 2
    assert drawn.logprobs is not None
    assert drawn.logprobs == logprobs_of(row(3, 2, 1), 2, 2)
    assert [token for token, _ in drawn.logprobs.top] == [0, 1]


def test_a_masked_draw_is_not_plain_greedy() -> None:
    assert draw(temperature=0).is_plain_greedy
    assert not draw(temperature=0)._replace(mask=bytes(4)).is_plain_greedy


def test_a_mask_without_a_token_ends_its_own_request_and_no_other() -> None:
    draws = [draw(temperature=0), draw(temperature=0)._replace(mask=bytes(4))]
    first, second = sample(np.ones((2, 3), np.float32), draws)
    assert first == Drawn(0, None)
    assert isinstance(second, NumericalError)


# ------------------------------------------------------------------------------ greedy and extremes


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_no_temperature_takes_the_likeliest_and_of_equals_the_first(logits: list[float]) -> None:
    expected = logits.index(max(logits))
    assert likeliest(row(*logits)) == expected
    assert sample_row(row(*logits), draw(temperature=0)) == Drawn(expected, None)
    nothing_bound: dict[str, Any] = {"top_k": 3, "top_p": 0.1, "min_p": 0.9}
    assert sample_row(row(*logits), draw(temperature=0, **nothing_bound)).token == expected


@pytest.mark.parametrize("temperature", [1e-2, 1e-4, 1e-10, 1e-30, 1e-38, 1e-45, 1e-300, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    assert tokens_drawn(row(0, 3, 2, -1), 20, temperature=temperature) == {1}
    assert tokens_drawn(row(-INFINITY, -5e30, -INFINITY), 20, temperature=temperature) == {1}
    assert tokens_drawn(row(1e30, -1e30, 0), 20, temperature=temperature) == {0}


def test_a_tiny_temperature_leaves_equals_equal() -> None:
    assert tokens_drawn(row(3, 0, 3), temperature=1e-30) == {0, 2}


@pytest.mark.parametrize("temperature", [1e5, 1e6])
def test_a_huge_temperature_makes_all_equal(temperature: float) -> None:
    assert tokens_drawn(row(0, 30, -30), temperature=temperature) == {0, 1, 2}


def test_logits_as_large_as_they_get() -> None:
    assert tokens_drawn(row(1e38, -1e38, 0), 20) == {0}
    assert tokens_drawn(row(LARGEST, 0, 1), 20, top_p=0.9, top_k=2) == {0}
    assert tokens_drawn(row(-LARGEST, -LARGEST)) == {0, 1}
    assert sample_row(row(-LARGEST, LARGEST), draw(temperature=0)).token == 1


def test_impossible_tokens_are_never_drawn() -> None:
    logits = row(-INFINITY, 0, -INFINITY, 0, -INFINITY)
    assert tokens_drawn(logits) == {1, 3}
    assert tokens_drawn(logits, top_k=4) == {1, 3}
    assert tokens_drawn(logits, top_p=0.99) == {1, 3}
    assert tokens_drawn(logits, top_p=0.5) == {1}
    assert tokens_drawn(logits, min_p=0.5) == {1, 3}
    assert tokens_drawn(logits, temperature=0) == {1}
    assert tokens_drawn(logits, temperature=1e-5) == {1, 3}


def test_a_vocabulary_of_one() -> None:
    for wishes in ({}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 1.0}, {"temperature": 0}):
        assert tokens_drawn(row(-3), 3, **wishes) == {0}


SICK = [
    row(math.nan, 1),
    row(1, math.nan),
    row(math.nan, INFINITY),
    row(INFINITY, 1),
    row(-INFINITY, -INFINITY),
    row(math.nan),
]


@pytest.mark.parametrize("logits", SICK, ids=str)
@pytest.mark.parametrize(
    "wishes",
    [{}, {"temperature": 0}, {"temperature": 0, "logprobs": 2}, {"top_p": 0.5, "top_k": 1}],
    ids=str,
)
def test_nan_is_refused(logits: NDArray[np.float32], wishes: dict[str, Any]) -> None:
    with pytest.raises(NumericalError, match=r"logits hold (nan|inf|-inf), expected finite"):
        sample_row(logits, draw(**wishes))


def test_a_nan_row_ends_its_own_request_and_no_other() -> None:
    rows = np.stack([row(5, 1), row(1, math.nan), row(INFINITY, 1), row(1, 5)])
    drawn = sample(rows, [draw(temperature=0)] * 4)
    assert [type(one) for one in drawn] == [Drawn, NumericalError, NumericalError, Drawn]
    assert (drawn[0], drawn[3]) == (Drawn(0, None), Drawn(1, None))


@pytest.mark.parametrize("wishes", [{}, {"temperature": 0, "logprobs": 1}], ids=str)
def test_logits_as_far_apart_as_they_get(wishes: dict[str, Any]) -> None:
    assert tokens_drawn(row(-LARGEST, LARGEST), 3, **wishes) == {1}


BEYOND_FLOAT32: list[dict[str, Any]] = [
    {"logit_bias": {0: 1e39}},
    {"logit_bias": {0: -1e39}},
    {"presence_penalty": 1e39},
    {"frequency_penalty": -1e39},
    {"repetition_penalty": 1e39},
    {"repetition_penalty": 1e-46},
    {"repetition_penalty": 1e38},  # the branch not taken overflows
    {"temperature": 1e39},
]


@pytest.mark.parametrize("wishes", BEYOND_FLOAT32, ids=str)
@pytest.mark.parametrize("greedy", [False, True])
def test_a_parameter_that_float32_cannot_hold_is_refused_or_harmless(
    wishes: dict[str, Any], greedy: bool
) -> None:
    if greedy:
        wishes = {"temperature": 0} | wishes
    try:
        params = SamplingParams(**wishes)
    except UsageError:
        return
    logits = row(10, 1, -INFINITY)
    assert sample_row(logits, draw(params, prompt=[0], answer=[0])).token in (0, 1)


# ----------------------------------------------------------------------------------------- logprobs


def test_logprobs_by_hand() -> None:
    found = logprobs_of(PROBABILITIES, 2, 3)
    assert found.token_id == 2
    assert found.logprob == pytest.approx(math.log(0.2), rel=1e-5)
    assert [token for token, _ in found.top] == [0, 1, 2]
    assert [number for _, number in found.top] == pytest.approx(np.log([0.4, 0.3, 0.2]), rel=1e-5)


eighths = st.integers(-320, 320).map(lambda number: number / 8)


@given(st.lists(eighths, min_size=1, max_size=30), st.integers(0, 20))
def test_logprobs_are_those_of_the_whole_distribution(logits: list[float], count: int) -> None:
    found = logprobs_of(row(*logits), len(logits) - 1, count)
    best = max(logits)
    total = math.log(sum(math.exp(x - best) for x in logits)) + best
    expected = [x - total for x in logits]
    assert found.logprob == pytest.approx(expected[-1], abs=1e-4)
    assert [token for token, _ in found.top] == by_rank(logits)[:count]
    for token, number in found.top:
        assert type(token) is int
        assert type(number) is float
        assert number == pytest.approx(expected[token], abs=1e-4)
    everything = logprobs_of(row(*logits), 0, len(logits)).top
    assert sum(math.exp(number) for _, number in everything) == pytest.approx(1, abs=1e-4)


def test_the_greedy_token_leads_the_top_even_by_a_hair() -> None:
    logits = np.zeros(1000, np.float32)
    logits[700] = 1e-7
    drawn = sample_row(logits, draw(temperature=0, logprobs=1))
    assert drawn.token == 700
    assert drawn.logprobs is not None
    assert drawn.logprobs.top[0][0] == 700


def test_logprobs_are_the_model_s_own_whatever_the_parameters() -> None:
    wishes: dict[str, Any] = {"temperature": 0, "logit_bias": {3: 50.0}, "presence_penalty": 9.0}
    drawn = sample_row(PROBABILITIES, draw(answer=[0], logprobs=1, **wishes))
    assert drawn.token == 3
    assert drawn.logprobs is not None
    assert drawn.logprobs.token_id == 3
    assert drawn.logprobs.logprob == pytest.approx(math.log(0.1), rel=1e-5)
    [(token, logprob)] = drawn.logprobs.top
    assert token == 0
    assert logprob == pytest.approx(math.log(0.4), rel=1e-5)


def test_logprobs_of_large_logits_do_not_overflow() -> None:
    for offset in (1e3, -1e3, 1e4):
        found = logprobs_of(PROBABILITIES + np.float32(offset), 0, 4)
        assert found.logprob == pytest.approx(math.log(0.4), abs=2e-3)


def test_no_logprobs_and_none_of_the_top_are_two_things() -> None:
    assert sample_row(PROBABILITIES, draw()).logprobs is None
    found = sample_row(PROBABILITIES, draw(logprobs=0)).logprobs
    assert found is not None
    assert found.top == ()


def test_a_token_that_is_given_is_scored_whatever_the_parameters() -> None:
    wishes: dict[str, Any] = {"temperature": 0, "logit_bias": {3: 50.0}, "presence_penalty": 9.0}
    one = draw(answer=[0], prompt_logprobs=2, **wishes)._replace(given=2)
    [drawn] = sample(PROBABILITIES[None], [one])
    assert isinstance(drawn, Drawn)
    assert drawn.token == 2
    assert drawn.logprobs == logprobs_of(PROBABILITIES, 2, 2)


def test_a_row_with_nan_scores_no_token() -> None:
    [drawn] = sample(row(0, math.nan, 1)[None], [draw(prompt_logprobs=0)._replace(given=0)])
    assert isinstance(drawn, NumericalError)


def test_an_impossible_token_has_a_logprob_of_minus_infinity() -> None:
    found = logprobs_of(row(0, -INFINITY), 0, 5)
    assert found.top == ((0, 0.0), (1, -INFINITY))


# --------------------------------------------------------------------------------------- parameters

NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")
INVALID: dict[str, list[Any]] = {
    "max_tokens": [0, -2, 1.5, "5", True, math.nan],
    "temperature": [-0.1, -1e-300, "hot", True, math.nan, INFINITY, -INFINITY, [1.0]],
    "top_k": [-2, 1.5, "5", True],
    "top_p": [0, 0.0, -0.1, 1.0001, 2, "1", False, math.nan, INFINITY],
    "min_p": [-0.1, 1.0001, "0", True, math.nan, -INFINITY],
    "repetition_penalty": [0, -1.0, "1", True, math.nan, INFINITY],
    "presence_penalty": ["0", True, math.nan, INFINITY, -INFINITY],
    "frequency_penalty": ["0", False, math.nan, INFINITY, -INFINITY],
    "seed": [-2, 2**64, 1.0, "7", True],
    "stop": ["", ["a", ""], [1], [None], [b"a"], [["a"]], 5],
    "stop_token_ids": [[-1], ["5"], [1.5], [True], [None], "5"],
    "logit_bias": [{-1: 1.0}, {"x": 1.0}, {True: 1.0}, {1.0: 1.0}],
    "logprobs": [-1, MAX_LOGPROBS + 1, 1.5, "3", True],
    "prompt_logprobs": [-1, MAX_LOGPROBS + 1, 1.5, "3", True],
    "n": [0, -1, 1025, 1.5, "2", True],
    "speculation": [-1, 65, 1.5, "2", True],
    "json_schema": [3, 0.5, False, b"{}"],
    "regex": ["", 3, b"a"],
    "grammar": ["", 3, b"a"],
    "choice": ["yes", [""], [1], 5],
}
VALID: dict[str, list[Any]] = {
    "max_tokens": [None, 1, 10**9],
    "temperature": [0, 0.0, 1, 5e-324, 1e6],
    "top_k": [0, 1, 10**9],
    "top_p": [1, 1.0, 1e-9, 5e-324],
    "min_p": [0, 0.0, 1, 1.0],
    "repetition_penalty": [1, 0.5, 2],
    "presence_penalty": [0, -2, 2.0],
    "frequency_penalty": [0, -2, 2.0],
    "seed": [None, 0, 2**64 - 1],
    "stop": [(), [], ("a",), ["a", "b"]],
    "stop_token_ids": [(), [0], (1, 2)],
    "logit_bias": [{}, {0: 1, 5: -2.5}],
    "logprobs": [None, 0, MAX_LOGPROBS],
    "prompt_logprobs": [None, 0, MAX_LOGPROBS],
    "n": [1, 1024],
    "ignore_eos": [True, False],
    "include_stop": [True, False],
    "speculation": [0, 64],
    "json_schema": [None, '{"type":"null"}', "{}"],
    "json_object": [True, False],
    "regex": [None, "[0-9]+"],
    "grammar": [None, 'start: "a"'],
    "choice": [(), ["yes", "no"], ("東京",)],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID.items() for value in values]
)
def test_an_invalid_value_is_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{name: value})
    message = str(caught.value)
    assert message.startswith(name)
    shown = value if not isinstance(value, dict | list) else next(iter(value))
    assert repr(shown) in message
    assert "expected" in message
    assert "\n" not in message


@pytest.mark.parametrize("bias", [math.nan, 1e7, "1", None, True])
def test_a_bias_that_is_not_a_number_is_refused(bias: Any) -> None:
    with pytest.raises(UsageError, match=r"logit_bias\[7\] is .*, expected") as caught:
        SamplingParams(logit_bias={3: 1.0, 7: bias})
    assert repr(bias) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VALID.items() for value in values]
)
def test_every_valid_value_is_accepted(name: str, value: Any) -> None:
    taken = getattr(SamplingParams(**{name: value}), name)
    assert taken == (tuple(value) if isinstance(value, list) else value)
    assert SamplingParams.from_mapping({name: value}) == SamplingParams(**{name: value})


def test_every_parameter_has_been_tried() -> None:
    assert set(VALID) == {item.name for item in fields(SamplingParams)}
    assert set(INVALID) | {"ignore_eos", "include_stop", "json_object"} == set(VALID)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_token_ids", 5),
        ("logit_bias", 5),
        ("logit_bias", [1, 2]),
        ("logit_bias", "abc"),
    ],
)
def test_a_value_that_is_not_a_collection_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("name", [*(n for n in NUMBERS if n[-2:] != "_p"), "frequency_penalty"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_number_too_large_for_a_float_is_refused(name: str, sign: int) -> None:
    """JSON may bring one: a server would answer 500 instead of 400."""
    refused: dict[str, Any] = {name: sign * 10**400}
    with pytest.raises(UsageError, match=name):
        SamplingParams(**refused)


def test_a_bias_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(UsageError, match="logit_bias"):
        SamplingParams(logit_bias={3: 10**400})


@pytest.mark.parametrize("name", ["ignore_eos", "include_stop"])
@pytest.mark.parametrize("value", ["false", 0, 1])
def test_a_flag_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingParams(**{name: value})


def test_unknown_names_are_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(UsageError, match=r"'temprature'.*temperature, top_k") as caught:
        SamplingParams.from_mapping({"temperature": 1.0, "temprature": 1.0})
    for item in fields(SamplingParams):
        assert item.name in str(caught.value)
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=1.0)  # type: ignore[call-arg]


def test_a_single_stop_text_is_a_list_of_one() -> None:
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert SamplingParams.from_mapping({"stop": "END"}) == SamplingParams(stop=("END",))


def test_parameters_cannot_be_changed() -> None:
    params = SamplingParams()
    for item in fields(SamplingParams):
        with pytest.raises(FrozenInstanceError):
            setattr(params, item.name, getattr(params, item.name))


def test_parameters_keep_copies_of_what_they_were_given() -> None:
    stop, ids, bias = ["a"], [1], {2: 3.0}
    params = SamplingParams(stop=stop, stop_token_ids=ids, logit_bias=bias)  # type: ignore[arg-type]
    stop.append("b")
    ids.append(5)
    bias[4] = math.nan
    assert params == SamplingParams(stop=("a",), stop_token_ids=(1,), logit_bias={2: 3.0})


def test_replacing_a_value_checks_it_again() -> None:
    assert replace(SamplingParams(top_k=3), top_p=0.5).top_k == 3
    with pytest.raises(UsageError, match="top_p is 7"):
        replace(SamplingParams(), top_p=7)


def test_the_defaults_are_the_documented_ones() -> None:
    assert vars(SamplingParams()) == {
        "max_tokens": None,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": None,
        "stop": (),
        "stop_token_ids": (),
        "logit_bias": {},
        "logprobs": None,
        "prompt_logprobs": None,
        "n": 1,
        "include_stop": False,
        "ignore_eos": False,
        "speculation": 0,
        "json_schema": None,
        "json_object": False,
        "regex": None,
        "grammar": None,
        "choice": (),
    }
    assert MAX_LOGPROBS == 20


def test_the_defaults_are_the_model_s_own_distribution() -> None:
    params = SamplingParams()
    assert not params.changes_logits
    assert not params.is_plain_greedy
    counts = Counter(sample_row(PROBABILITIES, draw(params, seed=i)).token for i in range(1000))
    assert [counts[i] / 1000 for i in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.06)


@pytest.mark.parametrize(
    "wishes",
    [
        {"logit_bias": {1: 1.0}},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
    ],
    ids=str,
)
def test_params_that_change_logits_are_not_plain_greedy(wishes: dict[str, Any]) -> None:
    assert SamplingParams(**wishes).changes_logits
    assert not SamplingParams(temperature=0, **wishes).is_plain_greedy
    assert SamplingParams(temperature=0).is_plain_greedy
    assert not SamplingParams(temperature=0, logprobs=0).is_plain_greedy
