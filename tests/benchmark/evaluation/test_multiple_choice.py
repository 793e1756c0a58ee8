"""Multiple choice: what each form asks, and which answer is chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cullama import LLM
from cullama.benchmark.evaluation.figures import Mean
from cullama.benchmark.evaluation.multiple_choice import (
    ChoiceReport,
    Chosen,
    Question,
    answer_questions,
    read_questions,
)
from cullama.errors import UsageError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "text"
OWN = {"prompt": "A llama", "choices": ["eats", " sleeps"], "answer": 1}
HELLASWAG = {
    "ind": 4,
    "activity_label": "Making tea",
    "ctx_a": "A kettle boils. [header] How to pour [title]",
    "ctx_b": "the llama",
    "ctx": "A kettle boils. The llama",
    "endings": ["pours [substeps] it.", "leaves.", "waits.", "sings."],
    "label": "2",
}
ARC = {
    "id": "1",
    "question": "What do llamas eat?",
    "choices": {"text": ["grass", "stone", "glass"], "label": ["A", "B", "C"]},
    "answerKey": "C",
}
PIQA = {"goal": "To cool tea,", "sol1": "wait.", "sol2": "boil it.", "label": 0}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(FIXTURE, deterministic=True) as llm:
        yield llm


def read(tmp_path: Path, *tasks: Any) -> list[Question]:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
    return read_questions(path)


def test_each_form_is_put_together_as_lm_evaluation_harness_does_it(tmp_path: Path) -> None:
    own, hellaswag, arc, piqa = read(tmp_path, OWN, HELLASWAG, ARC, PIQA)
    assert (own.prompt, own.choices, own.answer) == ("A llama", (" eats", " sleeps"), 1)
    assert hellaswag.prompt == "Making tea: A kettle boils. How to pour. The llama"
    assert hellaswag.choices == (" pours it.", " leaves.", " waits.", " sings.")
    assert hellaswag.answer == 2
    assert arc.prompt == "Question: What do llamas eat?\nAnswer:"
    assert (arc.choices, arc.answer) == ((" grass", " stone", " glass"), 2)
    assert piqa.prompt == "Question: To cool tea,\nAnswer:"
    assert (piqa.choices, piqa.answer) == ((" wait.", " boil it."), 0)


def test_hellaswag_may_have_its_context_in_one(tmp_path: Path) -> None:
    [question] = read(tmp_path, {"ctx": "A llama", "endings": ["eats", "runs"], "label": 0})
    assert (question.prompt, question.choices) == ("A llama", (" eats", " runs"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, "the fields are none, expected prompt, choices and answer; ctx"),
        ({"text": "a", "x": 1}, "the fields are text, x, expected"),
        ({**OWN, "choices": "ab"}, "choices is 'ab', expected a list of at least two texts"),
        ({**OWN, "choices": ["a"]}, "choices is .* a list of at least two texts"),
        ({**OWN, "choices": ["a", ""]}, "choices is .* a list of at least two texts"),
        ({**OWN, "choices": ["a", 5]}, "choices is .* a list of at least two texts"),
        (
            {**OWN, "choices": ["a", "\ud800"]},
            "choices is .* a list of at least two texts",
        ),
        ({**OWN, "prompt": None}, "prompt is None, expected a text"),
        ({**OWN, "answer": 2}, "answer is 2, expected the number of a choice, from 0 to 1"),
        ({**OWN, "answer": -1}, "answer is -1"),
        ({**OWN, "answer": True}, "answer is True"),
        ({**OWN, "answer": "one"}, "answer is 'one'"),
        ({**OWN, "answer": 10**400}, "answer is"),
        ({"prompt": "a", "choices": ["b", "c"]}, "answer is missing"),
        ({**HELLASWAG, "label": ""}, "label is '', expected the number of a choice"),
        ({**HELLASWAG, "ctx": 5}, "ctx is 5, expected a text"),
        ({**ARC, "answerKey": "D"}, "answerKey is 'D', expected one of the labels A, B, C"),
        ({**ARC, "choices": ["a", "b"]}, "choices is .* expected an object"),
        (
            {**ARC, "choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}},
            "label is .*, expected 2 labels",
        ),
        ({"goal": "a", "sol1": "b", "label": 0}, "sol2 is missing, expected a text"),
        ({**PIQA, "label": 2}, "label is 2"),
    ],
)
def test_a_task_that_is_not_one_is_refused_with_its_line(
    tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"tasks.jsonl, line 2: {message}") as caught:
        read(tmp_path, OWN, task)
    assert len(str(caught.value)) < 600


RECITED = [
    {"prompt": "The clockmaker", "choices": ["kept 12 clocks", "sold two cats"], "answer": 0},
    {"prompt": "In the little café", "choices": ["in the snow", "by the sea"], "answer": 1},
    {"prompt": "Once upon a time", "choices": ["the end", "a cat sang"], "answer": 0},
]


def test_what_the_model_has_learnt_by_heart_is_chosen(tmp_path: Path, llm: LLM) -> None:
    questions = read(tmp_path, *RECITED)
    seen: list[tuple[int, int]] = []
    report = answer_questions(llm, questions, lambda done, total: seen.append((done, total)))
    assert [one.likeliest for one in report.chosen[:2]] == [0, 1]
    assert seen == [(done, 6) for done in range(1, 7)]
    for question, one in zip(questions, report.chosen, strict=True):
        scores = llm.score(question.prompt, list(question.choices))
        assert one.logprobs == tuple(score.logprob for score in scores)
        assert one.lengths == tuple(len(choice) - 1 for choice in question.choices)
    assert report.truncated == 0


def test_acc_is_by_log_probability_and_acc_norm_by_that_per_character() -> None:
    chosen = (
        Chosen(1, 0, (-10.0, -9.0), (20, 3)),  # by the sum the second, by character the first
        Chosen(2, 1, (-10.0, -9.0), (20, 3)),
        Chosen(3, 0, (-1.0, -1.0), (5, 5)),  # a tie goes to the first
        Chosen(4, 1, (-1.0, -1.0), (5, 5)),
    )
    report = ChoiceReport(chosen, 0)
    assert [one.likeliest for one in chosen] == [1, 1, 0, 0]
    assert [one.likeliest_per_character for one in chosen] == [0, 0, 0, 0]
    assert report.acc.value == 0.5
    assert report.acc.stderr == pytest.approx(math.sqrt(0.25 / 3))
    assert report.as_json()["acc_norm"] == 0.5
    assert json.dumps(report.as_json())


def test_a_choice_of_markup_alone_is_never_the_likeliest_per_character(
    tmp_path: Path, llm: LLM
) -> None:
    task = {"ctx": "A llama", "endings": ["[header]", "eats"], "label": 1}
    [one] = answer_questions(llm, read(tmp_path, task)).chosen
    assert one.lengths == (0, 4)
    assert one.likeliest_per_character == 1


def test_the_standard_error_of_a_mean() -> None:
    assert Mean.of([1.0]) == Mean(1.0, None)
    assert str(Mean.of([1.0])) == "1.0000"
    values = [1.0] * 30 + [0.0] * 70
    mean = Mean.of(values)
    assert mean.value == pytest.approx(0.3)
    assert mean.stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert str(mean) == "0.3000 ± 0.0461"


def test_a_prompt_longer_than_the_context_is_cut_at_its_beginning(tmp_path: Path, llm: LLM) -> None:
    prompt = "a b c " * 300 + "The clockmaker"
    long = {"prompt": prompt, "choices": ["kept", "sold"], "answer": 0}
    report = answer_questions(llm, read(tmp_path, long, RECITED[0]))
    assert report.truncated == 1
    pair = llm.scorer.pair(prompt, " kept")
    assert len(pair.prompt) > llm.config.context_length
    tokens = (pair.prompt + pair.continuation)[-(llm.config.context_length + 1) :]
    expected = llm.score(tokens[: -len(pair.continuation)], pair.continuation).logprob
    assert report.chosen[0].logprobs[0] == expected
