"""Multiple choice: the answer that a model finds likeliest, of those that a task offers.

A task is one of four forms, told by its fields; prompts and choices are put together as
lm-evaluation-harness does it for the data sets that they come from, without examples in front:

    prompt, choices, answer                  as they are; the answer is the number of a choice
    ctx, endings, label                      HellaSwag (Zellers et al., 2019)
    question, choices: text/label, answerKey ARC (Clark et al., 2018)
    goal, sol1, sol2, label                  PIQA (Bisk et al., 2020)

The text of a choice is scored as a continuation of the prompt. `acc` counts where the right one has
the highest log-probability, `acc_norm` where it has the highest log-probability per character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...llm import LLM
from ...text.scoring import Pair, Progress
from .figures import Mean
from .task_file import ALL, Selection, Task, read_tasks

FIELDS = (
    "prompt, choices and answer; ctx, endings and label (HellaSwag); question, choices and "
    "answerKey (ARC); or goal, sol1, sol2 and label (PIQA)"
)


@dataclass(frozen=True)
class Question:
    """A prompt, its possible continuations, and which of them is right."""

    task: Task
    prompt: str
    choices: tuple[str, ...]  # as they are scored: with the space before them
    answer: int


@dataclass(frozen=True)
class Chosen:
    """What a model makes of one question."""

    line: int
    answer: int
    logprobs: tuple[float, ...]  # one a choice
    lengths: tuple[int, ...]  # of the choices, in characters

    @property
    def likeliest(self) -> int:
        return _first_largest(self.logprobs)

    @property
    def likeliest_per_character(self) -> int:
        # Of a choice that is empty without its markup, -∞, as lm-evaluation-harness has it.
        per_character = [
            logprob / length if length else -inf
            for logprob, length in zip(self.logprobs, self.lengths, strict=True)
        ]
        return _first_largest(per_character)


@dataclass(frozen=True)
class ChoiceReport:
    """The result of all questions of a file."""

    chosen: tuple[Chosen, ...]
    truncated: int  # prompts that were cut at their beginning to fit the context

    @property
    def acc(self) -> Mean:
        return Mean.of([float(one.likeliest == one.answer) for one in self.chosen])

    @property
    def acc_norm(self) -> Mean:
        return Mean.of([float(one.likeliest_per_character == one.answer) for one in self.chosen])

    def __str__(self) -> str:
        lines = [
            f"questions  {len(self.chosen)}",
            f"acc        {self.acc}",
            f"acc_norm   {self.acc_norm}",
        ]
        if self.truncated:
            lines.append(f"truncated  {self.truncated}, at their beginning, to fit the context")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        acc, acc_norm = self.acc, self.acc_norm
        return {
            "tasks": len(self.chosen),
            "acc": acc.value,
            "acc_stderr": acc.stderr,
            "acc_norm": acc_norm.value,
            "acc_norm_stderr": acc_norm.stderr,
            "truncated": self.truncated,
            "results": [
                {
                    "line": one.line,
                    "answer": one.answer,
                    "chosen": one.likeliest,
                    "chosen_norm": one.likeliest_per_character,
                    "logprobs": list(one.logprobs),
                }
                for one in self.chosen
            ],
        }


def read_questions(path: Path, selection: Selection = ALL) -> list[Question]:
    """Read a file of questions. Raises UsageError, with the file's name and the line."""
    questions: list[Question] = []
    for task in read_tasks(path, selection):
        read = next((FORMS[field] for field in FORMS if field in task.values), None)
        if read is None:
            shown = ", ".join(list(task.values)[:8]) or "none"
            raise UsageError(
                f"{task.path}, line {task.line}: the fields are {shown:.200}, expected {FIELDS}"
            )
        questions.append(read(task))
    return questions


def answer_questions(
    llm: LLM, questions: Sequence[Question], progress: Progress = lambda done, total: None
) -> ChoiceReport:
    """Score every choice of every question.

    A prompt that does not fit the context is cut at its beginning, which the report counts.

    Raises:
        UsageError: a choice that is longer than the context by itself, or has no token of its own.
    """
    scorer = llm.scorer
    pairs: list[Pair] = []
    truncated = 0
    for question in questions:
        try:
            whole = [scorer.pair(question.prompt, choice) for choice in question.choices]
        except UsageError as error:
            place = f"{question.task.path}, line {question.task.line}"
            raise UsageError(f"{place}: {error}") from None
        cut = [scorer.fitting(pair) for pair in whole]
        truncated += cut != whole
        pairs += cut
    scores = iter(scorer.score_pairs(pairs, progress))
    chosen = (
        Chosen(
            each.task.line,
            each.answer,
            tuple(next(scores).logprob for _ in each.choices),
            tuple(len(choice.strip()) for choice in each.choices),
        )
        for each in questions
    )
    return ChoiceReport(tuple(chosen), truncated)


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


# --- the forms of a task --------------------------------------------------------------------------


def _own(task: Task) -> Question:
    choices = task.texts("choices")
    answer = task.index("answer", len(choices))
    return Question(task, task.text("prompt"), tuple(map(_spaced, choices)), answer)


def _hellaswag(task: Task) -> Question:
    endings = task.texts("endings")
    context = task.text("ctx")
    if {"ctx_a", "ctx_b"} <= task.values.keys():
        context = f"{task.text('ctx_a')} {task.text('ctx_b').capitalize()}"
    if "activity_label" in task.values:
        context = f"{task.text('activity_label')}: {context}"
    answer = task.index("label", len(endings))
    return Question(
        task, _without_markup(context), tuple(_spaced(_without_markup(e)) for e in endings), answer
    )


def _without_markup(text: str) -> str:
    """Remove what is left of WikiHow's markup in HellaSwag: titles and references in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(task: Task) -> Question:
    choices = [task.text("sol1"), task.text("sol2")]
    answer = task.index("label", 2)
    return Question(
        task, f"Question: {task.text('goal')}\nAnswer:", tuple(map(_spaced, choices)), answer
    )


def _arc(task: Task) -> Question:
    inner = task.values.get("choices")
    if not isinstance(inner, dict):
        task.fail("choices", "an object with the lists text and label")
    choices = Task(task.path, task.line, inner)
    texts, labels = choices.texts("text"), choices.texts("label")
    if len(labels) != len(texts):
        choices.fail("label", f"{len(texts)} labels, one for each text")
    key = task.text("answerKey")
    if key not in labels:
        task.fail("answerKey", f"one of the labels {', '.join(labels)}")
    prompt = f"Question: {task.text('question')}\nAnswer:"
    return Question(task, prompt, tuple(map(_spaced, texts)), labels.index(key))


def _spaced(choice: str) -> str:
    """Put a space before a choice, unless it begins with white space of its own."""
    return choice if choice[:1].isspace() else f" {choice}"


# A field that tells the form, and what reads it; ARC has `choices`, too.
FORMS: dict[str, Callable[[Task], Question]] = {
    "endings": _hellaswag,
    "sol1": _piqa,
    "sol2": _piqa,
    "answerKey": _arc,
    "prompt": _own,
    "choices": _own,
}
