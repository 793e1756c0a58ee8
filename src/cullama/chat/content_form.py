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
        content = message.get("content")
        if isinstance(content, list) and not self._takes_parts:
            return {**message, "content": content_text(message)}
        if isinstance(content, str) and self._needs_parts:
            return {**message, "content": [{"type": "text", "text": content}]}
        if content is None and self._needs_text["content" in message]:
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
    def _needs_text(self) -> dict[bool, bool]:
        """Whether an answer of tool calls whose content is missing (False), or None (True), is
        refused, or printed as "None"."""
        with_text = self._rendered_call({"content": ""})
        without = {False: self._rendered_call({}), True: self._rendered_call({"content": None})}
        return {
            is_none: bool(with_text) and (not text or text.count("None") > with_text.count("None"))
            for is_none, text in without.items()
        }

    def _rendered_call(self, content: dict[str, Any]) -> str:
        answer = {"role": "assistant", **content, "tool_calls": [_CALL]}
        return self.render([{"role": "user", "content": PROBE}, answer])
