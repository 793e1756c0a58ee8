"""Writes the tables of docs/settings.md from the lists that the program judges files by.

    python scripts/make_settings_page.py

The page's words are written by hand; under each heading the table is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cullama.checkpoint.settings.config_json import CONFIG_JSON_RULES, ROPE_RULES
from cullama.checkpoint.settings.generation_config import GENERATION_CONFIG_RULES
from cullama.checkpoint.settings.gguf import (
    GGUF_MODEL_RULES,
    GGUF_SAMPLING_RULES,
    GGUF_TOKENIZER_RULES,
)
from cullama.checkpoint.settings.tokenizer_config import TOKENIZER_CONFIG_RULES
from cullama.checkpoint.settings.verdict import Rule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEADINGS = {
    "config.json": CONFIG_JSON_RULES,
    "config.json: rope_scaling, rope_parameters": ROPE_RULES,
    "generation_config.json": GENERATION_CONFIG_RULES,
    "tokenizer_config.json": TOKENIZER_CONFIG_RULES,
    "GGUF: the model": GGUF_MODEL_RULES,
    "GGUF: the tokenizer": GGUF_TOKENIZER_RULES,
    "GGUF: sampling": GGUF_SAMPLING_RULES,
}
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def spelled(value: Any) -> str:
    """Return a value as JSON spells it."""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def table(rules: Sequence[Rule]) -> str:
    lines = ["| fields | | |", "|---|---|---|"]
    for each in rules:
        names = ", ".join(f"`{name}`" for name in each.names)
        verdict = str(each.verdict)
        if each.verdict in ("refused", "warned") and each.neutral:
            verdict += f" unless {' or '.join(map(spelled, each.neutral))}"
        lines.append(f"| {names} | {verdict} | {each.why} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page's text with its tables as the lists have them."""
    for heading, rules in HEADINGS.items():
        start = text.index(f"\n## {heading}\n")
        match = TABLE.search(text, start)
        assert match is not None, heading
        text = text[: match.start()] + table(rules) + text[match.end() :]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
