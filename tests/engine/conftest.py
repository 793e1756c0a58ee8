"""Models for the engine's tests, with caches and budgets of any size."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from concurrency import eventually, in_threads
from live import BLOCK, LONG, Open, WriteModel, is_idle

from cullama import LLM


@pytest.fixture(scope="module")
def cold(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model) as llm:
        yield llm


@pytest.fixture(scope="module")
def long_model(
    tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel, tokenizer_file: Path
) -> Path:
    folder = tmp_path_factory.mktemp("models") / "long"
    return write_model(folder, tokenizer=tokenizer_file, max_position_embeddings=LONG)


@pytest.fixture
def open_llm(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A model whose engine has so many blocks, tokens a step, and requests at once."""
    opened: list[LLM] = []

    def open_one(
        blocks: int = 64,
        budget: int = 512,
        max_running: int = 256,
        max_ahead: int = 1024,
        model: Path = tiny_model,
    ) -> LLM:
        monkeypatch.setattr("cullama.engine.engine.TOKEN_BUDGET", budget)
        monkeypatch.setattr("cullama.engine.engine.MAX_RUNNING", max_running)
        monkeypatch.setattr("cullama.engine.scheduler.MAX_AHEAD", max_ahead)
        opened.append(LLM(model, cache_tokens=blocks * BLOCK))
        return opened[-1]

    yield open_one
    in_threads(*(llm.close for llm in opened))


@pytest.fixture
def llm(open_llm: Open) -> Iterator[LLM]:
    made = open_llm()
    yield made
    if made._engine is not None:
        gc.collect()
        assert eventually(lambda: is_idle(made.engine))
