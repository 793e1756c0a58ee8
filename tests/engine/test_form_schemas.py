"""Every schema of form_schemas.py: followed by a model of random weights, or refused by name.

scripts/check_forms.py does the same with the default model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from form_schemas import REFUSED, SCHEMAS
from jsonschema import Draft202012Validator
from live import WriteModel

from cullama import LLM, Completion, SamplingParams
from cullama.errors import ConstraintError, DownloadError

OF_THE_DEFAULT_MODEL = ("person", "as pydantic writes it", "any of objects", "tuple")


@pytest.fixture(scope="module")
def llm(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("models") / "roomy"
    write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=512)
    with LLM(folder, backend="cpu:numpy", cache_tokens=8192) as made:
        yield made


@pytest.fixture(scope="module")
def answers(llm: LLM) -> dict[str, Completion]:
    """Two of each schema, one of them with draft tokens, all in one batch."""
    names = [name for name in SCHEMAS for _ in range(2)]
    params = [
        SamplingParams(
            json_schema=SCHEMAS[name], seed=place, max_tokens=400, speculation=4 * (place % 2)
        )
        for place, name in enumerate(names)
    ]
    found = llm.generate(["Once upon a time"] * len(names), params, progress=False)
    return {f"{name} {place % 2}": found[place] for place, name in enumerate(names)}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_is_valid_under_its_schema(answers: dict[str, Completion], name: str) -> None:
    for place in (0, 1):
        answer = answers[f"{name} {place}"]
        if answer.finish_reason == "stop":
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(answer.text))
        else:
            assert answer.finish_reason == "length"


def test_nearly_all_answers_come_to_an_end(answers: dict[str, Completion]) -> None:
    reasons = [answer.finish_reason for answer in answers.values()]
    assert reasons.count("stop") >= 0.9 * len(reasons)


def test_there_are_at_least_sixty_schemas() -> None:
    assert len(SCHEMAS) >= 60
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_is_refused_names_its_keyword(llm: LLM, name: str) -> None:
    schema, keyword = REFUSED[name]
    with pytest.raises(ConstraintError) as caught:
        llm.generate("Once", SamplingParams(json_schema=schema, max_tokens=5))
    assert keyword in str(caught.value)
    assert caught.value.param == "json_schema"


@pytest.mark.parametrize("name", OF_THE_DEFAULT_MODEL)
def test_the_default_model_follows_schemas(users_cache: None, name: str) -> None:
    try:
        smollm2 = LLM()
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")
    with smollm2:
        params = SamplingParams(json_schema=SCHEMAS[name], seed=1, max_tokens=120, n=2)
        first = smollm2.chat([{"role": "user", "content": f"Write {name} as JSON."}], params)
    for answer in (first, *first.alternatives):
        if answer.finish_reason == "stop":
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(answer.text))
