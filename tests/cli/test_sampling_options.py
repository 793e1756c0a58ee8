"""Options, the model's recommendations and a command's defaults: which of them counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest

from cullama import SamplingParams
from cullama.cli.options import other_sampling_options, sampling_options
from cullama.cli.sampling import SamplingOptions, carried_over


class Model:
    """What `SamplingOptions` asks of an LLM."""

    def __init__(self, **values: Any) -> None:
        self.sampling_defaults = values


def parsed(*arguments: str, max_tokens: int | None = None) -> SamplingOptions:
    """Return the options of a command line, of a command with this default of --max-tokens."""
    found: list[SamplingOptions] = []

    @click.command()
    @click.option("--max-tokens", type=int, default=max_tokens)
    @other_sampling_options
    def command(**options: Any) -> None:
        found.append(SamplingOptions.pop_from(options))
        assert not options

    command.main(list(arguments), standalone_mode=False)
    return found[0]


def start(options: SamplingOptions, **recommended: Any) -> SamplingParams:
    model: Any = Model(**recommended)
    return options.starting_params(model)


def test_without_recommendations_the_commands_defaults_count() -> None:
    assert start(parsed()) == SamplingParams(temperature=0.8, top_p=0.95)


def test_a_recommendation_counts_before_the_commands_default() -> None:
    params = start(parsed(), temperature=1.0, top_k=20)
    assert params == SamplingParams(temperature=1.0, top_k=20, top_p=0.95)


def test_an_option_that_was_given_counts_before_a_recommendation() -> None:
    options = parsed("--temperature", "0.8", "--top-k", "0", "--stop", "x")
    params = start(options, temperature=0.1, top_k=20, top_p=0.5, stop=("y", "z"))
    assert params == SamplingParams(temperature=0.8, top_k=0, top_p=0.5, stop=("x",))


def test_a_recommended_length_counts_before_the_default_of_chat() -> None:
    assert start(parsed(max_tokens=1024), max_tokens=77).max_tokens == 77
    assert start(parsed("--max-tokens", "5", max_tokens=1024), max_tokens=77).max_tokens == 5


def test_where_a_command_has_no_length_the_engine_takes_the_recommended_one() -> None:
    assert start(parsed(), max_tokens=77).max_tokens is None


def test_what_is_taken_from_the_files_is_said() -> None:
    model: Any = Model(temperature=0.6, top_p=0.949999988079071, top_k=20)
    assert parsed("--top-k", "3").note(model) == (
        "sampling as the model's files recommend: temperature 0.6, top_p 0.95"
    )
    assert parsed("-t", "0", "--top-k", "3", "--top-p", "1").note(model) == ""


def test_another_model_starts_from_its_own_recommendations_and_keeps_what_was_set() -> None:
    options = parsed("--min-p", "0.1")
    before = start(options, temperature=0.6, top_k=20)
    after = start(options, temperature=0.3, top_p=0.5)
    changed = SamplingParams(**{**vars(before), "top_k": 7})
    assert carried_over(changed, before, after) == SamplingParams(
        temperature=0.3, top_p=0.5, min_p=0.1, top_k=7
    )


@pytest.fixture(scope="module")
def greedy_model(
    tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path], tokenizer_file: Path
) -> Path:
    folder = write_model(tmp_path_factory.mktemp("models") / "greedy", tokenizer=tokenizer_file)
    recommended = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": []}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    return folder


def test_story_and_chat_start_from_the_recommendations_and_say_so(
    cullama_command: Any, greedy_model: Path
) -> None:
    runs = {
        "story": ("story", "Once upon a time"),
        "again": ("story", "Once upon a time", "-q"),
        "given": ("story", "Once upon a time", "-t", "5", "-n", "9", "--ignore-eos"),
        "chat": ("chat", "hi"),
        "chat again": ("chat", "hi", "-q"),
    }

    def run(name: str) -> Any:
        return cullama_command(*runs[name], "--json", "-m", greedy_model)

    with ThreadPoolExecutor(2) as pool:
        ended = dict(zip(runs, pool.map(run, runs), strict=True))
    outputs = {name: json.loads(it.out) for name, it in ended.items()}
    said = "sampling as the model's files recommend: max_tokens 6, temperature 0\n"
    assert said in ended["story"].err
    assert said in ended["chat"].err
    assert ended["again"].err == ""
    assert "recommend" not in ended["given"].err
    assert outputs["story"]["text"] == outputs["again"]["text"]
    assert outputs["chat"]["text"] == outputs["chat again"]["text"]
    assert outputs["story"]["seed"] != outputs["again"]["seed"]
    assert len(outputs["story"]["token_ids"]) == 6
    assert len(outputs["given"]["token_ids"]) == 9


def test_every_sampling_option_can_be_given() -> None:
    @click.command()
    @sampling_options
    def command(**options: Any) -> None:
        assert SamplingOptions.pop_from(options).given == frozenset()

    command.main([], standalone_mode=False)
