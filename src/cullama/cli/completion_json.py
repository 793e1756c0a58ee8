"""A completion as the JSON object that `cullama story` and `cullama chat` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..sampling.params import SamplingParams
    from ..text.completion import Completion


def refuse_logprobs(params: SamplingParams, as_json: bool) -> None:
    """Refuse options whose results show nowhere. Raises UsageError."""
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None and not as_json:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} shows in --json output only; add --json")


def completion_as_json(completion: Completion) -> dict[str, Any]:
    """Return a completion's fields, and its decode speed, as JSON values."""
    values = asdict(completion)
    if completion.logprobs is None and completion.prompt_logprobs is None:
        del values["token_texts"]  # of the ids in them
    if completion.prompt_logprobs is None:
        del values["prompt_logprobs"]
    values["decode_tokens_per_second"] = round(completion.decode_rate, 2)
    return values
