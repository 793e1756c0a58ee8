"""Every variant of the family, on every backend, against what transformers computed: logits, and
greedy tokens.

`scripts/make_fixtures.py` made the models and the expectations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import gpu
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import cullama
from cullama.model.batch import Chunk

FIXTURES = Path(__file__).parent / "fixtures"
MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir())
TEXTS = json.loads((FIXTURES / "text/expected.json").read_text())
GREEDY = cullama.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


Loaded: TypeAlias = tuple[cullama.LLM, dict[str, NDArray[Any]]]  # a model, and what is expected


def allocate(llm: cullama.LLM, count: int) -> list[int]:
    blocks = llm.engine.prefix_cache.pool.allocate(count)
    assert blocks is not None
    return blocks


BACKENDS = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        gpu.require()
    return request.param


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, backend: str) -> Iterator[Loaded]:
    folder = FIXTURES / "models" / request.param
    with cullama.LLM(folder, backend=backend, dtype="float32") as llm:
        yield llm, load_file(folder / "expected.safetensors")


def test_logits_are_those_of_transformers(model: Loaded) -> None:
    llm, expected = model
    logits = llm.logits(expected["ids"].tolist())
    assert logits.dtype == np.float32
    assert logits.shape == expected["logits"].shape
    assert np.abs(logits - expected["logits"]).max() <= 1e-4


def test_greedy_tokens_are_those_of_transformers(model: Loaded) -> None:
    llm, expected = model
    completion = llm.generate(expected["ids"].tolist(), GREEDY)
    assert list(completion.token_ids) == expected["greedy"].tolist()


def test_prompt_logprobs_are_those_of_transformers(model: Loaded) -> None:
    llm, expected = model
    ids, logits = expected["ids"].tolist(), expected["logits"].astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    params = cullama.SamplingParams(max_tokens=0, prompt_logprobs=1)
    first, *found = llm.generate(ids, params).prompt_logprobs or (None,)
    assert first is None
    assert len(found) == len(ids) - 1
    for row, token, one in zip(logprobs, ids[1:], found, strict=False):
        assert one is not None
        assert abs(one.logprob - row[token]) <= 1e-4
        assert one.top == ((row.argmax(), pytest.approx(row.max(), abs=1e-4)),)


@pytest.mark.parametrize("chunk", [1, 2, 7, 31, 32])
def test_any_chunking_of_the_prompt_gives_the_same_logits(model: Loaded, chunk: int) -> None:
    llm, expected = model
    ids, engine = expected["ids"].tolist(), llm.engine
    blocks = allocate(llm, 2)
    parts = [
        engine.runner.logits([Chunk(part, start, blocks, len(part))])
        for start in range(0, len(ids), chunk)
        if (part := ids[start : start + chunk])
    ]
    engine.prefix_cache.pool.release(blocks)
    assert np.abs(np.concatenate(parts) - expected["logits"]).max() <= 1e-4


def test_a_step_that_wants_no_logits_only_fills_the_cache(model: Loaded) -> None:
    llm, expected = model
    ids, engine = expected["ids"].tolist(), llm.engine
    blocks = allocate(llm, 2)
    nothing = engine.runner.logits([Chunk(ids[:20], 0, blocks, 0)])
    rest = engine.runner.logits([Chunk(ids[20:], 20, blocks, len(ids) - 20)])
    engine.prefix_cache.pool.release(blocks)
    assert nothing.shape == (0, llm.config.vocab_size)
    assert np.abs(rest - expected["logits"][20:]).max() <= 1e-4


def test_a_mixed_batch_gives_the_same_logits(model: Loaded) -> None:
    """A decode, a chunk in the middle of a prompt and a whole prompt, in one pass."""
    llm, expected = model
    ids, engine = expected["ids"].tolist(), llm.engine
    first, second, third = (allocate(llm, 2) for _ in range(3))
    engine.runner.logits([Chunk(ids[:-1], 0, first, 1), Chunk(ids[:5], 0, second, 1)])
    logits = engine.runner.logits(
        [
            Chunk(ids[-1:], len(ids) - 1, first, 1),
            Chunk(ids[5:17], 5, second, 12),
            Chunk(ids, 0, third, len(ids)),
        ]
    )
    engine.prefix_cache.pool.release(first + second + third)
    want = expected["logits"]
    assert np.abs(logits - np.concatenate([want[-1:], want[5:17], want])).max() <= 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_storage_in_16_bits_stays_near_the_float32_model(
    backend: str, name: str, dtype: str
) -> None:
    folder = FIXTURES / "models" / name
    expected = load_file(folder / "expected.safetensors")
    with cullama.LLM(folder, backend=backend, dtype=dtype) as llm:
        logits = llm.logits(expected["ids"].tolist())
    error = np.abs(logits - expected["logits"])
    # Rounding to 8 bits of fraction (bfloat16) or 11 (float16), through two layers.
    bound = {"float16": 0.02, "bfloat16": 0.15}[dtype]
    assert np.sqrt((error**2).mean()) <= bound * np.sqrt((expected["logits"] ** 2).mean())
    assert error.max() > 0


def test_a_stored_end_token_list_ends_the_answer() -> None:
    folder = FIXTURES / "models" / "llama_gqa"
    expected = load_file(folder / "expected.safetensors")
    params = cullama.SamplingParams(temperature=0, max_tokens=12)
    completion = cullama.LLM(folder).generate(expected["ids"].tolist(), params)
    assert list(completion.token_ids) == expected["greedy"][:8].tolist()
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case["prompt"][:12])
def test_texts_are_those_of_transformers(case: dict[str, Any]) -> None:
    llm = cullama.LLM(FIXTURES / "text")
    params = cullama.SamplingParams(temperature=0, max_tokens=len(case["greedy"]))
    completion = llm.generate(case["ids"], params)
    assert list(completion.token_ids) == case["greedy"]
    assert completion.text == case["text"]
    assert completion.finish_reason == "stop"
