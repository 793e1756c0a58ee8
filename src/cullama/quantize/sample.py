"""A text to try a model on: prose, talk, a table, code and letters, some 1,500 tokens, written for
this purpose. It knows where the text is."""

from __future__ import annotations

from pathlib import Path


def sample_text() -> str:
    return Path(__file__).with_name("sample.txt").read_text(encoding="utf-8")
