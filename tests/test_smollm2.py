"""The default model, fetched as users fetch it, against transformers on the same weights.

`scripts/make_golden.py` computed the expectations in float32 from the dequantised GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from command_line import CommandLine
from folder_copy import copy_as_folder

import cullama
from cullama import LLM
from cullama.errors import DownloadError
from cullama.hub import resolve_model

Case: TypeAlias = dict[str, Any]

GOLDEN = json.loads((Path(__file__).parent / "fixtures/smollm2_greedy.json").read_text())
CASES = GOLDEN["prompts"]
SCORES = json.loads((Path(__file__).parent / "fixtures/scores.json").read_text(encoding="utf-8"))

# How far apart the logits of two runs of this model may be: both in float32, or one with a float16
# cache and weights as the file has them. A margin ten times that cannot be turned round.
NOISE = {"cpu:numpy": 1e-4, "cpu": 5e-3}
COMPILED = pytest.param(
    "cpu", marks=pytest.mark.skipif(not find_spec("llvmlite"), reason="llvmlite is not installed")
)


@pytest.fixture(scope="module", params=["cpu:numpy", COMPILED])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llm(backend: str, users_cache: None) -> LLM:
    try:
        return cullama.LLM(backend=backend)
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_prompts_become_the_same_tokens(llm: LLM, case: Case) -> None:
    assert llm.tokenizer.encode(case["prompt"], allow_special=True) == case["ids"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_logits_after_the_prompt_are_the_same(llm: LLM, backend: str, case: Case) -> None:
    logits = llm.logits(case["ids"])[-1]
    expected = np.array(case["logits"]["values"], np.float32)
    assert np.abs(logits[case["logits"]["ids"]] - expected).max() < 10 * NOISE[backend]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_greedy_text_is_the_same_where_the_margin_allows(
    llm: LLM, backend: str, case: Case
) -> None:
    params = cullama.SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    completion = llm.generate(case["ids"], params)
    clear = len(list(takewhile(lambda margin: margin > 10 * NOISE[backend], case["margins"])))
    assert list(completion.token_ids[:clear]) == case["greedy"][:clear]
    if clear == 32:
        assert completion.text == case["text"]


def test_most_of_the_golden_text_is_clear() -> None:
    """The comparison above would say nothing if the margins were tiny."""
    margin = 10 * max(NOISE.values())
    clear = [len(list(takewhile(lambda m: m > margin, case["margins"]))) for case in CASES]
    assert sum(clear) > 0.75 * 32 * len(CASES)


def test_all_prompts_in_one_batch_say_the_same(llm: LLM) -> None:
    params = cullama.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    together = llm.generate([case["ids"] for case in CASES], params)
    alone = [llm.generate(case["ids"], params) for case in CASES]
    assert [one.text for one in together] == [one.text for one in alone]


PARIS = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = cullama.SamplingParams(temperature=0, max_tokens=32)


def test_it_knows_the_capital_of_france_from_either_kind_of_file(
    llm: LLM, backend: str, tmp_path: Path
) -> None:
    """The GGUF and a safetensors copy of its weights, tokenizer and template."""
    folder = copy_as_folder(resolve_model(None), tmp_path / "copy")
    expected = llm.chat(PARIS, GREEDY)
    assert "Paris" in expected.text
    with cullama.LLM(folder, backend=backend) as copy:
        assert copy.chat(PARIS, GREEDY).token_ids == expected.token_ids
        assert copy.session(params=GREEDY).send(PARIS[0]["content"]).text == expected.text


def test_the_command_line_says_the_same(
    llm: LLM, backend: str, cullama_command: CommandLine
) -> None:
    named = ("-m", resolve_model(None), "--backend", backend)
    ended = cullama_command("chat", "-q", *named, "-t", "0", PARIS[0]["content"])
    assert ended.code == 0
    assert ended.out == llm.chat(PARIS, GREEDY).text + "\n"


@pytest.fixture(scope="module", params=["cpu:numpy", COMPILED])
def in_float32(request: pytest.FixtureRequest, users_cache: None) -> Iterator[LLM]:
    try:
        with cullama.LLM(backend=str(request.param), dtype="float32") as llm:
            yield llm
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")


def test_scores_are_those_of_transformers(in_float32: LLM) -> None:
    cases = SCORES["smollm2"]
    scores = in_float32.score(
        [case["prompt"] for case in cases], [case["continuation"] for case in cases]
    )
    for case, score in zip(cases, scores, strict=True):
        assert score.token_ids == tuple(case["ids"])
        assert score.prompt_tokens == len(case["context_ids"])
        assert np.abs(np.subtract(score.token_logprobs, case["logprobs"])).max() <= 1e-4
        assert score.is_greedy == case["is_greedy"]
