"""How many bytes of weights a decode step reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from cullama import LLM

WriteModel: TypeAlias = Callable[..., Path]


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_decode_step_reads_every_matrix_but_the_embedding(
    tmp_path: Path, write_model: WriteModel, is_tied: bool
) -> None:
    folder = write_model(tmp_path, tie_word_embeddings=is_tied)
    with LLM(folder, backend="cpu:numpy", dtype="float32") as llm:
        config, weights = llm.config, llm.engine.runner.model.weights
        embedding = config.vocab_size * config.hidden_size
        read = config.parameters - (0 if is_tied else embedding)
        assert weights.bytes_read_per_token == 4 * read
