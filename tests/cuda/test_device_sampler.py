"""Tokens drawn on the device, against the host's sampler, rule by rule and row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cullama.errors import NumericalError
from cullama.sampling.draw import Draw, Drawn
from cullama.sampling.params import SamplingParams
from cullama.sampling.sampler import sample, softmax

pytestmark = pytest.mark.gpu

Logits = NDArray[np.float32]


@pytest.fixture(scope="module")
def ops() -> Iterator[Any]:
    operators = gpu.operators("float32")
    yield operators
    operators.close()


def draws_of(rows: int, tokens: tuple[int, ...] = (0, 0, 0), **options: Any) -> list[Draw]:
    params = SamplingParams(**options)
    return [Draw(params, seed, seed % 3, tokens, 1) for seed in range(rows)]


def drawn(ops: Any, logits: Logits, draws: list[Draw]) -> list[Any]:
    return ops.sample(ops.upload(logits), draws)()


def tokens_of(results: list[Any]) -> list[int]:
    return [result.token for result in results]


def same_as_the_host(ops: Any, logits: Logits, draws: list[Draw]) -> None:
    assert tokens_of(drawn(ops, logits, draws)) == tokens_of(sample(logits, draws))


def normal(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> Logits:
    return (np.random.default_rng(seed).normal(size=(rows, vocabulary)) * spread).astype(np.float32)


PARAMS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 0.3},
    {"temperature": 1e-12},
    {"temperature": 50.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.9},
    {"top_p": 1e-9},
    {"top_p": 0.99999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7, "min_p": 0.05, "temperature": 1.7},
    {"repetition_penalty": 1.8},
    {"presence_penalty": 2.5, "frequency_penalty": 1.5},
    {"frequency_penalty": -2.0, "temperature": 0},
    {"logit_bias": {0: 5.0}, "repetition_penalty": 0.5},
]


@pytest.mark.parametrize("vocabulary", [1, 2, 31, 32, 33, 255, 256, 257, 513, 5003])
@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_every_sampling_param_works_in_vocabularies_of_every_size(
    ops: Any, params: dict[str, Any], vocabulary: int
) -> None:
    logits = normal(6, vocabulary)
    text = tuple(token % vocabulary for token in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3))
    same_as_the_host(ops, logits, draws_of(6, text, **params))


def test_combinations_of_sampling_params(ops: Any) -> None:
    """Logits are multiples of a half, so that there are many ties, which the lower id must win."""

    @settings(max_examples=60)
    @given(
        seed=st.integers(0, 2**32 - 1),
        vocabulary=st.integers(1, 90),
        temperature=st.sampled_from([0, 0.5, 1.0, 2.0]),
        top_k=st.integers(0, 12),
        top_p=st.sampled_from([1.0, 0.95, 0.61, 0.3]),
        min_p=st.sampled_from([0.0, 0.07, 0.6]),
    )
    def law(seed: int, vocabulary: int, **params: Any) -> None:
        levels = np.random.default_rng(seed).integers(-6, 7, size=(3, vocabulary))
        same_as_the_host(ops, (levels / 2).astype(np.float32), draws_of(3, **params))

    law()


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ties_go_to_the_lower_id(ops: Any, temperature: float) -> None:
    logits = np.zeros((4, 700), np.float32)
    assert tokens_of(drawn(ops, logits, draws_of(4, temperature=temperature, top_k=1))) == [0] * 4
    logits[:, [300, 650]] = 2
    assert tokens_of(drawn(ops, logits, draws_of(4, temperature=temperature, top_k=1))) == [300] * 4


def test_of_ties_at_the_edge_of_the_top_k_the_first_are_kept(ops: Any) -> None:
    logits = np.full((200, 600), -1, np.float32)
    logits[:, 5] = 1
    found = set(tokens_of(drawn(ops, logits, draws_of(200, top_k=4))))
    assert found == {5, 0, 1, 2}


def test_zero_and_minus_zero_are_equal(ops: Any) -> None:
    logits = np.full((1, 40), -5, np.float32)
    logits[0, 3], logits[0, 9] = -0.0, 0.0
    assert tokens_of(drawn(ops, logits, draws_of(1, temperature=0))) == [3]


def test_forbidden_tokens_are_never_drawn(ops: Any) -> None:
    logits = np.full((300, 64), -np.inf, np.float32)
    logits[:, 10:13] = 0
    assert set(tokens_of(drawn(ops, logits, draws_of(300)))) == {10, 11, 12}


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 257, 5003])
@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_masked_tokens_are_not_drawn_as_if_the_host_had_made_them_impossible(
    ops: Any, params: dict[str, Any], vocabulary: int
) -> None:
    """In rows among rows without a mask: the draw is that of logits with −∞, the log-probabilities
    those of all of them."""
    logits = normal(6, vocabulary)
    random = np.random.default_rng(vocabulary)
    allowed = random.random((6, vocabulary)) < random.choice([0.02, 0.5, 0.98], (6, 1))
    allowed[np.arange(6), random.integers(vocabulary, size=6)] = True
    allowed[[1, 4]] = True
    text = tuple(token % vocabulary for token in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3))
    plain = draws_of(6, text, **params, logprobs=2)
    masked = [
        draw if row in (1, 4) else draw._replace(mask=packed(allowed[row]))
        for row, draw in enumerate(plain)
    ]
    impossible = np.where(allowed, logits, -np.inf).astype(np.float32)
    mine = drawn(ops, logits, masked)
    assert tokens_of(mine) == tokens_of(sample(impossible, plain))
    for row, (result, theirs) in enumerate(zip(mine, sample(logits, masked), strict=True)):
        assert allowed[row, result.token]
        assert isinstance(theirs, Drawn)
        assert theirs.logprobs is not None
        assert result.logprobs.logprob == pytest.approx(theirs.logprobs.logprob, abs=1e-5)
        assert [t for t, _ in result.logprobs.top] == [t for t, _ in theirs.logprobs.top]


def packed(allowed: NDArray[np.bool_]) -> bytes:
    """A bit for each token, in whole words."""
    return np.packbits(np.pad(allowed, (0, -len(allowed) % 32)), bitorder="little").tobytes()


def test_a_mask_without_a_token_is_an_error_of_its_row(ops: Any) -> None:
    logits = normal(3, 40)
    draws = draws_of(3, temperature=0)
    draws[1] = draws[1]._replace(mask=bytes(8))
    results = drawn(ops, logits, draws)
    assert isinstance(results[1], NumericalError)
    assert tokens_of(results[::2]) == tokens_of(sample(logits[::2], draws[::2]))


def test_given_tokens_are_scored_as_the_host_scores_them(ops: Any) -> None:
    """Beside rows that draw: whatever the parameters, nothing is drawn for them."""
    logits = normal(6, 257)
    logits[4, 30] = -np.inf
    options: dict[str, Any] = {"temperature": 0.7, "logit_bias": {3: 9.0}, "top_k": 2}
    draws = draws_of(6, prompt_logprobs=3, **options)
    given = [0, None, 256, 3, 30, None]
    mixed = [one._replace(given=token) for one, token in zip(draws, given, strict=True)]
    for mine, theirs in zip(drawn(ops, logits, mixed), sample(logits, mixed), strict=True):
        assert isinstance(theirs, Drawn)
        assert mine.token == theirs.token
        if theirs.logprobs is None:
            assert mine.logprobs is None
            continue
        assert mine.logprobs.logprob == pytest.approx(theirs.logprobs.logprob, abs=1e-5)
        assert [token for token, _ in mine.logprobs.top] == [t for t, _ in theirs.logprobs.top]
    logits[0, 9] = np.nan
    assert isinstance(drawn(ops, logits, mixed)[0], NumericalError)


def test_draws_follow_the_distribution(ops: Any) -> None:
    """Pearson's χ² over 4,000 draws of 8 tokens; 24.3 is exceeded once in a thousand times."""
    row = np.log(np.array([0.4, 0.2, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02], np.float32))
    tokens = tokens_of(drawn(ops, np.tile(row, (4000, 1)), draws_of(4000)))
    expected = 4000 * softmax(row, 1.0)
    counted = np.bincount(tokens, minlength=8)
    assert ((counted - expected) ** 2 / expected).sum() < 24.3


def test_a_row_does_not_depend_on_its_neighbours(ops: Any) -> None:
    logits = normal(9, 300)
    draws = [
        Draw(SamplingParams(**PARAMS[i]), 7, 0, (1, 2, 3, 3), 2) for i in range(len(PARAMS) - 8)
    ]
    together = tokens_of(drawn(ops, logits, draws))
    for row, draw in enumerate(draws):
        assert tokens_of(drawn(ops, logits[row : row + 1], [draw])) == [together[row]]


@pytest.mark.parametrize("place", [0, 17, 255, 599])
@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"logit_bias": {1: 1.0}}], ids=str)
def test_nan_ends_its_row_and_no_other(ops: Any, params: dict[str, Any], place: int) -> None:
    logits = normal(4, 600)
    logits[0, place] = np.nan
    logits[1, place] = np.inf
    logits[2, :] = -np.inf
    results = drawn(ops, logits, draws_of(4, **params))
    for result, named in zip(results, ("nan", "inf", "-inf"), strict=False):
        assert isinstance(result, NumericalError)
        assert f"hold {named}," in str(result)
    assert isinstance(results[3], Drawn)


def test_a_bias_of_a_million_is_applied(ops: Any) -> None:
    logits = normal(2, 50)
    for bias, wanted in ((1e6, 7), (-1e6, None)):
        tokens = tokens_of(drawn(ops, logits, draws_of(2, logit_bias={7: bias})))
        assert tokens == [7, 7] if wanted else 7 not in tokens


@pytest.mark.parametrize("wanted", [0, 1, 5, 20])
def test_top_tokens_are_reported_with_log_probabilities(ops: Any, wanted: int) -> None:
    logits = normal(3, 70)
    params: dict[str, Any] = {"logprobs": wanted, "temperature": 0.7, "logit_bias": {3: 9.0}}
    for mine, theirs in zip(
        drawn(ops, logits, draws_of(3, **params)),
        sample(logits, draws_of(3, **params)),
        strict=True,
    ):
        assert isinstance(theirs, Drawn)
        assert mine.logprobs is not None
        assert theirs.logprobs is not None
        assert mine.logprobs.token_id == theirs.logprobs.token_id == theirs.token
        assert mine.logprobs.logprob == pytest.approx(theirs.logprobs.logprob, abs=1e-5)
        assert [token for token, _ in mine.logprobs.top] == [t for t, _ in theirs.logprobs.top]
        assert [p for _, p in mine.logprobs.top] == pytest.approx(
            [p for _, p in theirs.logprobs.top], abs=1e-5
        )


def test_a_small_vocabulary_is_reported_whole(ops: Any) -> None:
    (result,) = drawn(ops, normal(1, 3), draws_of(1, logprobs=20))
    assert sorted(token for token, _ in result.logprobs.top) == [0, 1, 2]


def test_logits_are_not_changed(ops: Any) -> None:
    logits = normal(2, 80)
    on_device = ops.upload(logits)
    ops.sample(on_device, draws_of(2, repetition_penalty=2.0, logprobs=3))()
    np.testing.assert_array_equal(ops.download(on_device), logits)


def test_draws_may_be_read_in_any_order_and_much_later(ops: Any) -> None:
    logits = normal(5, 90)
    draws = draws_of(5)
    readers = [ops.sample(ops.upload(logits[i : i + 1]), [draws[i]]) for i in range(5)]
    read = {i: readers[i]()[0].token for i in (3, 0, 4, 1, 2)}
    assert [read[i] for i in range(5)] == tokens_of(sample(logits, draws))
