"""A model that produces NaN ends only the requests that meet it; others continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cullama import LLM, SamplingParams
from cullama.errors import NumericalError

POISONED = 77  # the token whose embedding is not finite
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=12, temperature=0.8, seed=1, ignore_eos=True)
PROMPTS = [[3, 4, 5], [6, POISONED, 7], list(range(10, 40))]

OpenModel = Callable[..., LLM]


@pytest.fixture
def poisoned(write_model: Any, tiny_tensors: Any, tmp_path: Path) -> Callable[[float], Path]:
    def write(value: float) -> Path:
        tiny_tensors["model.embed_tokens.weight"][POISONED, 5] = value
        return write_model(tmp_path / "poisoned", tensors=tiny_tensors)

    return write


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("params", [GREEDY, DRAWN])
def test_one_request_fails_and_the_others_are_unaffected(
    value: float,
    params: SamplingParams,
    poisoned: Callable[[float], Path],
    emulated: Any,
    open_model: OpenModel,
) -> None:
    model = poisoned(value)
    sound = open_model(model, backend="cpu").generate([PROMPTS[0], PROMPTS[2]], params)
    assert all(POISONED not in completion.token_ids for completion in sound)
    llm = open_model(model)
    streams = [llm.stream(prompt, params) for prompt in PROMPTS]
    with pytest.raises(NumericalError, match=r"logits hold (nan|-?inf)"):
        list(streams[1])
    assert streams[1].completion.token_ids == ()
    assert streams[1].completion.finish_reason == "error"
    for stream, expected in zip((streams[0], streams[2]), sound, strict=True):
        list(stream)
        assert stream.completion.token_ids == expected.token_ids


def test_cached_blocks_with_nan_are_never_reused(
    poisoned: Callable[[float], Path], emulated: Any, open_model: OpenModel
) -> None:
    """The failed request's blocks hold NaN, which must not affect the next request in them."""
    llm = open_model(poisoned(np.nan), cache_tokens=128)
    expected = open_model(poisoned(np.nan), backend="cpu").generate(PROMPTS[2], GREEDY)
    for _ in range(4):
        with pytest.raises(NumericalError):
            llm.generate([*range(100, 170), POISONED, 8], GREEDY)
        assert llm.generate(PROMPTS[2], GREEDY).token_ids == expected.token_ids
