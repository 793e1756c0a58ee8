"""The passes of a side: which tokens, in which rows and cache blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cullama import LLM
from cullama.inspect.diff import Side
from cullama.inspect.passes import PromptPass, prompt_passes

TOKENS = list(range(10, 80))  # three blocks of 32, the last one not full


def passes(side: Side) -> Iterator[PromptPass]:
    return prompt_passes(TOKENS, 32, side.chunk, side.others(TOKENS))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("chunk", [0, 1, 7, 32, 70, 100])
def test_the_prompts_rows_are_its_chunks(llm: LLM, batch: int, chunk: int) -> None:
    seen: list[int] = []
    slots: set[int] = set()
    for step in passes(Side(llm, batch, chunk)):
        ours = step.batch.tokens[step.rows].tolist()
        assert step.start == len(seen)
        assert step.batch.positions[step.rows].tolist() == list(range(len(seen), len(seen + ours)))
        assert step.batch.tokens[step.batch.logit_rows].tolist() == ours, (
            "no logits of other sequences"
        )
        assert len(step.batch.tokens) == batch * len(ours)
        seen += ours
        assert slots.isdisjoint(step.batch.slots.tolist())
        slots |= set(step.batch.slots.tolist())
    assert seen == TOKENS
    assert len(slots) == batch * len(TOKENS), "every token of every sequence has its own slot"


def test_the_other_sequences_differ_from_the_prompt(llm: LLM) -> None:
    (step,) = passes(Side(llm, 8))
    rows = step.batch.tokens.reshape(8, -1)
    assert len(np.unique(rows, axis=0)) == 8
    assert rows.max() < llm.config.vocab_size
    assert 0 < step.rows.start < step.rows.stop < rows.size, "some before ours, some after"


def test_blocks_of_a_batched_sequence_are_not_neighbours(llm: LLM) -> None:
    (step,) = passes(Side(llm, 4))
    assert (np.diff(step.batch.block_tables, axis=1) == 4).all()
    (alone,) = passes(Side(llm))
    assert (np.diff(alone.batch.block_tables, axis=1) == 1).all()


@pytest.mark.parametrize(("batch", "chunk"), [(8, 0), (1, 16)])
def test_a_sides_description_names_batch_and_chunk(llm: LLM, batch: int, chunk: int) -> None:
    description = Side(llm, batch, chunk).description
    assert description.startswith(llm.description)
    assert f" · batch {batch} · " in description
    assert ("whole prompt" in description) == (chunk == 0)


def test_each_pass_uploads_one_batch(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Any] = []
    ops = llm.engine.runner.ops
    sound = ops.upload_batch

    def noted(batch: Any) -> Any:
        uploads.append(batch)
        return sound(batch)

    monkeypatch.setattr(ops, "upload_batch", noted)
    Side(llm, 2, 30).run(TOKENS, lambda place, start, rows: None, False)
    assert [len(batch.tokens) for batch in uploads] == [60, 60, 20]
