"""States what inspection uses of a loaded model; `LLM` provides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..model.config import ModelConfig
    from ..text.tokenizer import Tokenizer


class InspectedModel(Protocol):
    @property
    def description(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def engine(self) -> Engine: ...
