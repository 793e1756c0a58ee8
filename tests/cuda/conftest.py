"""Fixtures: an emulated GPU that can be made to fail, and models on it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import gpu
import pytest

from cullama import LLM

OpenModel: TypeAlias = Callable[..., LLM]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The knobs of a fresh emulated GPU: nothing allocated, nothing failed."""
    if gpu.IS_REAL:
        pytest.skip("a real GPU cannot be told to fail")
    gpu.require()
    device = gpu.emulated()
    gc.collect()  # garbage of earlier tests must not be freed during this one
    device.reset()
    for size in (
        "memory.STAGING_SIZE",
        "cublas.WORKSPACE_SIZE",
    ):  # to be filled with NaN takes its time
        monkeypatch.setattr(f"cullama.cuda.{size}", 1 << 20)
    yield device
    device.reset()


# As small as a model gets, since each test takes many steps.
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="session")
def write_small(
    write_model: Any, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Writes a small model, with changes to its config."""

    def write(**changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("models") / "small"
        return write_model(folder, tokenizer=tokenizer_file, **{**SMALL, **changes})

    return write


@pytest.fixture(scope="session")
def small_model(write_small: Callable[..., Path]) -> Path:
    return write_small()


@pytest.fixture
def open_model(emulated: Any, small_model: Path) -> Iterator[OpenModel]:
    """Opens the small model, on the GPU by default; closes it at the end of the test."""
    opened: list[LLM] = []

    def open_one(model: Path = small_model, backend: str = "cuda", **options: Any) -> LLM:
        room = {"cache_tokens": 512} if backend == "cuda" else {}
        llm = LLM(model, backend=backend, **{"dtype": "float32", **room, **options})
        opened.append(llm)
        return llm

    yield open_one
    for llm in opened:
        llm.close()
