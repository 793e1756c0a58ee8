"""`llm.token_layers`: logit lens and attention of one token, against all of `llm.inside`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gpu
import numpy as np
import pytest

from cullama import LLM, SamplingParams
from cullama.engine.engine import TOKEN_BUDGET
from cullama.errors import ContextLengthError, UsageError
from cullama.inspect.token_layers import token_layers

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 4, 8, 300


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, backend="cpu")


def check_against_inside(llm: LLM, tokens: list[int], token: int, tolerance: float = 1e-5) -> None:
    """Softmax and ranks are numpy's, of `inside`'s logits; attention, the last row of its maps."""
    found, inside = llm.token_layers(tokens, token, count=3), llm.inside(tokens)
    assert found.tokens == tuple(tokens)
    assert len(found.states) == LAYERS + 1
    for state, logits in zip(found.states, inside.lens()[:, -1].astype(np.float64), strict=True):
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        assert state.probability == pytest.approx(shares[token], rel=1e3 * tolerance)
        best = np.argsort(-shares, kind="stable")[:3]
        np.testing.assert_allclose(
            [share for _, share in state.top], shares[best], rtol=1e3 * tolerance
        )
        assert abs(state.rank - 1 - int((shares > shares[token]).sum())) <= 1e5 * tolerance
    expected = np.stack([inside.attention_in(layer)[:, -1] for layer in range(LAYERS)])
    np.testing.assert_allclose(found.attention, expected, atol=tolerance)


@pytest.mark.parametrize("length", [1, 2, 31, 33, 70])
def test_it_is_the_last_row_of_all_that_inside_has(llm: LLM, length: int) -> None:
    check_against_inside(llm, list(range(3, 3 + length)), token=7)


def test_a_text_longer_than_a_pass_comes_in_several_and_sees_its_window(sliding: LLM) -> None:
    tokens = [3 + k % 200 for k in range(TOKEN_BUDGET + 40)]
    assert [each is None for each in token_layers(sliding.engine, tokens, 5, 2)] == [
        True,
        True,
        False,
    ]
    check_against_inside(sliding, tokens, token=5)
    attention = sliding.token_layers(tokens, 5).attention
    assert (attention[..., :-5] == 0).all()
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)


def test_the_last_state_is_what_the_model_draws_from(llm: LLM) -> None:
    params = SamplingParams(max_tokens=1, temperature=0, logprobs=3, ignore_eos=True)
    answer = llm.generate([5, 6, 7], params)
    (token,) = answer.token_ids
    assert answer.logprobs is not None
    last = llm.token_layers([5, 6, 7], token).states[-1]
    assert last.rank == 1
    assert last.top[0][0] == token
    assert np.log(last.probability) == pytest.approx(answer.logprobs[0].logprob, abs=1e-4)


def test_other_requests_run_between_its_passes(sliding: LLM) -> None:
    tokens = [3 + k % 200 for k in range(TOKEN_BUDGET + 40)]
    alone = sliding.token_layers(tokens, 5)
    steps = token_layers(sliding.engine, tokens, 5, 5)
    next(steps)
    sliding.generate([9, 8, 7], SamplingParams(max_tokens=4, ignore_eos=True))
    *_, found = steps
    assert found is not None
    np.testing.assert_array_equal(found.attention, alone.attention)


@pytest.mark.parametrize(
    ("tokens", "token", "count", "error", "words"),
    [
        ([], 3, 5, UsageError, "the prompt is empty"),
        ([3], VOCABULARY, 5, UsageError, "the token"),
        ([VOCABULARY], 3, 5, UsageError, "the prompt"),
        ([3], 3, 0, UsageError, "count is 0, expected a whole number from 1 to 300"),
        ([3] * 4096, 3, 5, ContextLengthError, "4,?096"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    llm: LLM, tokens: list[int], token: int, count: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        llm.token_layers(tokens, token, count)


@pytest.fixture
def gpu_llm(tiny_model: Path) -> Iterator[LLM]:
    gpu.require()
    with closing(LLM(tiny_model, backend="cuda", dtype="float32")) as llm:
        yield llm


def test_the_gpus_backend_gives_the_same(gpu_llm: LLM) -> None:
    check_against_inside(gpu_llm, list(range(3, 40)), token=7, tolerance=1e-3)
