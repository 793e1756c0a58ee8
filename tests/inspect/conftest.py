"""A model that hidden states, attention and layers are looked at in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from cullama import LLM

WriteModel: TypeAlias = Callable[..., Path]


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel) -> LLM:
    """A model with a sliding window of 5, and a context longer than a pass."""
    changes: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 5,
        "max_position_embeddings": 2048,
    }
    folder = write_model(tmp_path_factory.mktemp("models") / "sliding", **changes)
    return LLM(folder, backend="cpu")
