"""Conversations as transformers renders them, with each style of chat template.

`scripts/make_chat_fixtures.py` writes them; each style is a folder with a template and a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from cullama.text.tokenizer import Tokenizer

CHAT = Path(__file__).parent / "fixtures" / "chat"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Rendered:
    """A conversation and its rendering, or the template's `refusal`."""

    name: str
    messages: list[dict[str, Any]]
    add_generation_prompt: bool
    text: str | None
    token_ids: list[int] | None
    refusal: str | None


@dataclass(frozen=True)
class ChatStyle:
    name: str

    @property
    def folder(self) -> Path:
        return CHAT / self.name

    @property
    def source(self) -> str:
        return (self.folder / "chat_template.jinja").read_text(encoding="utf-8")

    @property
    def names(self) -> dict[str, str]:
        """Return the names of tokens that the template may use: bos_token and so on."""
        return read_json(self.folder / "tokenizer_config.json")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))

    @property
    def variables(self) -> dict[str, Any]:
        """Return the template's further variables."""
        return read_json(self.folder / "expected.json")["variables"]

    def rendered(self) -> Iterator[Rendered]:
        conversations = read_json(CHAT / "conversations.json")
        for name, found in read_json(self.folder / "expected.json")["rendered"].items():
            yield Rendered(
                name,
                **conversations[name],
                text=found.get("text"),
                token_ids=found.get("token_ids"),
                refusal=found.get("refused"),
            )


def chat_styles() -> list[ChatStyle]:
    return [ChatStyle(path.parent.name) for path in sorted(CHAT.glob("*/chat_template.jinja"))]
