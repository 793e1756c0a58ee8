"""A completion as the JSON object that `cullama story` and `cullama chat` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..text.completion import Completion


def completion_as_json(completion: Completion) -> dict[str, Any]:
    """Return a completion's fields, and its decode speed, as JSON values."""
    values = asdict(completion)
    if completion.logprobs is None:
        del values["token_texts"]  # of the ids in logprobs
    values["decode_tokens_per_second"] = round(completion.decode_rate, 2)
    return values
