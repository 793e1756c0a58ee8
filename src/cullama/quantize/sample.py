"""The text that `cullama quantize` measures the loss on: prose, dialogue, a table and code.

It has some 1,500 tokens and was written for this purpose.
"""

from __future__ import annotations

from pathlib import Path


def sample_text() -> str:
    return Path(__file__).with_name("sample.txt").read_text(encoding="utf-8")
