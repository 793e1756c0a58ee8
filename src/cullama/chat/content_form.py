"""Tells which form of content a template takes, by rendering samples, and gives messages that form.

transformers leaves this to the caller. Most templates take a text and fail at a list of parts, or
print it as Python does; some take both; a few read nothing but parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .messages import content_text

PROBE = "0123456789"  # a text that no template changes
_PARTS = [{"type": "text", "text": PROBE}]
_CALL = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": {}}}


@dataclass(frozen=True)
class ContentForm:
    """What one template takes. `render` returns "" for a sample that the template refuses."""

    render: Callable[[Sequence[dict[str, Any]]], str]

    def adapt(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a checked message with its content in a form that the template takes."""
        content = message["content"]
        if isinstance(content, list) and not self._takes_parts:
            return {**message, "content": content_text(message)}
        if isinstance(content, str) and self._needs_parts:
            return {**message, "content": [{"type": "text", "text": content}]}
        if content is None and self._prints_none:
            return {**message, "content": ""}
        return message

    @cached_property
    def _takes_parts(self) -> bool:
        text = self.render([{"role": "user", "content": _PARTS}])
        # A list that is printed shows the names of its entries.
        return PROBE in text and not any(name in text for name in ("'type'", '"type"'))

    @cached_property
    def _needs_parts(self) -> bool:
        return PROBE not in self.render([{"role": "user", "content": PROBE}]) and self._takes_parts

    @cached_property
    def _prints_none(self) -> bool:
        """Whether an answer that is only tool calls is printed as "None", or refused."""
        with_none, with_empty = (
            self.render(
                [
                    {"role": "user", "content": PROBE},
                    {"role": "assistant", "content": content, "tool_calls": [_CALL]},
                ]
            )
            for content in (None, "")
        )
        return bool(with_empty) and (
            not with_none or with_none.count("None") > with_empty.count("None")
        )
