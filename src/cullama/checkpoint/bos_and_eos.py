"""Builds the post-processor that puts BOS before a text and EOS behind it.

Which of them a model wants is read by the files that know its format.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers.processors import TemplateProcessing


def surrounding(marks: Mapping[str, tuple[int, str]]) -> TemplateProcessing:
    """Return a post-processor that adds "bos" and "eos", as far as given: an id and its text."""
    before, after = [it for it in marks if it == "bos"], [it for it in marks if it == "eos"]
    return TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *before, "$B:1", *after],
        special_tokens=[
            {"id": mark, "ids": [index], "tokens": [text]} for mark, (index, text) in marks.items()
        ],
    )
