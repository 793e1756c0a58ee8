"""What generation_config.json and GGUF recommend of sampling; what cannot be used is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cullama.checkpoint.opening import open_checkpoint
from cullama.checkpoint.sampling_defaults import GENERATION_CONFIG, GGUF, sampling_defaults
from cullama.sampling.params import SamplingParams

PATH = Path("model/generation_config.json")
QWEN: dict[str, Any] = {
    "bos_token_id": 1,
    "do_sample": True,
    "eos_token_id": [1, 2],
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "transformers_version": "4.37.0",
}


def read(**values: Any) -> dict[str, Any]:
    return sampling_defaults(PATH, values, GENERATION_CONFIG)


def test_what_a_file_names_is_returned_under_our_names() -> None:
    assert read(**QWEN, min_p=0.05, max_new_tokens=2048, stop_strings="###") == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
        "max_tokens": 2048,
        "stop": ("###",),
    }


@pytest.mark.parametrize(
    "values", [{}, {"eos_token_id": 2, "max_length": 4096}, {"temperature": None, "top_k": None}]
)
def test_a_file_that_names_nothing_recommends_nothing(values: dict[str, Any]) -> None:
    assert read(**values) == {}


def test_a_neutral_value_is_a_recommendation_too() -> None:
    assert read(temperature=1.0, top_p=1.0) == {"temperature": 1.0, "top_p": 1.0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 9}, {"temperature": 0}),
        (
            {"do_sample": False, "repetition_penalty": 1.1, "max_new_tokens": 9},
            {"temperature": 0, "repetition_penalty": 1.1, "max_tokens": 9},
        ),
        ({"do_sample": True}, {"temperature": 1}),
        ({"do_sample": True, "temperature": 0.6}, {"temperature": 0.6}),
        ({"temperature": 0.6}, {"temperature": 0.6}),
        ({"temperature": 0.0}, {"temperature": 0}),
        ({"top_k": -1}, {"top_k": 0}),
    ],
)
def test_do_sample_decides_between_greedy_and_drawing(
    values: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read(**values) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("temperature", "0.7"), ("top_p", 0.0), ("top_p", 1.5), ("top_k", 2.5),
     ("repetition_penalty", 0), ("max_new_tokens", 0), ("stop_strings", [""]), ("min_p", True)],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named_and_passed_over(
    name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(**{"eos_token_id": 1, name: value}) == {}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert f"{PATH}: {name} is not used as a default: " in message
    assert "expected" in message


@given(st.sampled_from([*GENERATION_CONFIG, "do_sample"]),
       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3), max_leaves=4))  # fmt: skip
def test_any_value_gives_parameters_that_can_be_used(name: str, value: Any) -> None:
    SamplingParams.from_mapping(read(**{name: value}))


def test_the_sampling_metadata_of_a_gguf_is_read() -> None:
    metadata = {
        "general.architecture": "llama",
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 40,
        "general.sampling.top_p": 0.95,
        "general.sampling.min_p": 0.01,
        "general.sampling.penalty_repeat": 1.1,
    }
    assert sampling_defaults(Path("x.gguf"), metadata, GGUF) == {
        "temperature": 0.6,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
    }


def test_a_folder_is_opened_with_what_its_generation_config_recommends(
    write_model: Any, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    assert open_checkpoint(folder).sampling_defaults == {}
    (folder / "generation_config.json").write_text(json.dumps(QWEN))
    assert open_checkpoint(folder).sampling_defaults == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.05,
    }
