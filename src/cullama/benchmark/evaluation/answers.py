"""Answers to prompts from a file, written to a file for others to judge, as IFEval does it.

Each task has a `prompt`, and whatever else; each line written has the same fields and `response`.
It judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...engine.validation import completion_limit
from ...errors import CullamaError, UsageError
from ...llm import LLM
from ...sampling.params import SamplingParams
from ...text.scoring import Progress
from .task_file import ALL, Selection, Task, read_tasks

BATCH = 32  # prompts answered together, before their lines are written


def read_prompts(path: Path, selection: Selection = ALL) -> list[Task]:
    """Read tasks that have a `prompt`. Raises UsageError, with the file's name and the line."""
    tasks = read_tasks(path, selection)
    for task in tasks:
        if not task.text("prompt").strip():
            task.fail("prompt", "a text that is not empty")
    return tasks


def write_answers(
    llm: LLM,
    tasks: Sequence[Task],
    output: Path,
    params: SamplingParams,
    is_chat: bool = True,
    progress: Progress = lambda done, total: None,
) -> int:
    """Answer every prompt and write the answers, some at a time; returns how many were cut short.

    Args:
        output: a new file; one line for each task, in order.
        is_chat: ask through the model's chat template; else each prompt is continued as text.

    Raises:
        UsageError: the output exists already; a prompt that does not fit, named by its line.
        CullamaError: the output cannot be written.
    """
    if is_chat:
        params = llm.chat_format.with_stop_tokens(params)
    prompts = [_encode(llm, task, params, is_chat) for task in tasks]
    cut_short = 0
    try:
        with output.open("x", encoding="utf-8") as file:
            for start in range(0, len(tasks), BATCH):
                some = tasks[start : start + BATCH]
                completions = llm.generate(prompts[start : start + BATCH], params)
                for task, completion in zip(some, completions, strict=True):
                    cut_short += completion.finish_reason == "length"
                    answer = {
                        "response": completion.text,
                        "finish_reason": completion.finish_reason,
                    }
                    file.write(json.dumps({**task.values, **answer}, ensure_ascii=False) + "\n")
                file.flush()
                progress(start + len(some), len(tasks))
    except FileExistsError:
        raise UsageError(f"{output}: there is such a file already, expected a new one") from None
    except OSError as error:
        raise CullamaError(f"cannot write {output}: {error.strerror or error}") from None
    return cut_short


def _encode(llm: LLM, task: Task, params: SamplingParams, is_chat: bool) -> list[int]:
    """Return a prompt's token ids. Raises UsageError, with the line, where they do not fit."""
    prompt = task.text("prompt")
    try:
        if is_chat:
            ids = llm.chat_format.encode(
                llm.chat_format.write([{"role": "user", "content": prompt}])
            )
        else:
            ids = llm.tokenizer.encode_prompt(prompt, llm.config.bos_id)
        completion_limit(len(ids), params.max_tokens, llm.client.capacity)
    except UsageError as error:
        raise UsageError(f"{task.path}, line {task.line}: {error}") from None
    return ids
