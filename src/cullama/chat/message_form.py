"""Tells which form of messages a template takes, by rendering samples, and gives them that form.

transformers leaves this to the caller; vLLM and llama.cpp do it for them. Most templates take a
text as content, and fail at a list of parts or print it as Python does; some take both; a few read
nothing but parts. Arguments of tool calls are objects for some, and JSON in a text for others.
Mistral's take no ids of calls but of nine letters and digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .messages import content_text

PROBE = "0123456789"  # a text that no template changes
_PARTS = [{"type": "text", "text": PROBE}]
_NAME, _ID, _ARGUMENTS = f"call_{PROBE}", PROBE[:9], {"key": PROBE[::-1]}
SAMPLE_CALL: dict[str, Any] = {
    "id": _ID,
    "type": "function",
    "function": {"name": _NAME, "arguments": _ARGUMENTS},
}
SAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": PROBE,
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}
_CONTENTS: dict[str, dict[str, Any]] = {"text": {"content": ""}, "none": {"content": None}}
_CONTENTS["missing"] = {}


@dataclass(frozen=True)
class MessageForm:
    """What one template takes. `render` returns "" for a sample that the template refuses."""

    render: Callable[[Sequence[dict[str, Any]]], str]

    def adapt(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a checked message with its content and its calls' arguments in a form that the
        template takes."""
        call_id = message.get("tool_call_id")
        if isinstance(call_id, str) and self._needs_short_ids:
            message = {**message, "tool_call_id": _short_id(call_id)}
        if message.get("tool_calls"):
            return self._adapted_answer(message)
        content = message.get("content")
        if isinstance(content, list) and not self._takes_parts:
            return {**message, "content": content_text(message)}
        if isinstance(content, str) and self._needs_parts:
            return {**message, "content": [{"type": "text", "text": content}]}
        return message

    # --- content

    @cached_property
    def _takes_parts(self) -> bool:
        text = self.render([{"role": "user", "content": _PARTS}])
        # A list that is printed shows the names of its entries.
        return PROBE in text and not any(name in text for name in ("'type'", '"type"'))

    @cached_property
    def _needs_parts(self) -> bool:
        return PROBE not in self.render([{"role": "user", "content": PROBE}]) and self._takes_parts

    # --- tool calls

    def _adapted_answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Adapt the arguments of calls, and the content beside them, which is often empty."""
        calls, content = message["tool_calls"], message.get("content")
        if isinstance(calls, list):
            message = {**message, "tool_calls": [self._adapted_call(call) for call in calls]}
        if isinstance(content, list):
            return message if self._takes_parts else {**message, "content": content_text(message)}
        kind = "text" if content else "missing" if "content" not in message else "none"
        if content is None and self._needs_text(kind):
            return {**message, "content": ""}
        if content == "" and not self._shown("text") and self._shown("none"):
            return {**message, "content": None}
        return message

    def _needs_text(self, kind: str) -> bool:
        """Whether calls without content are refused, left out, or printed with the word "None"."""
        with_text, without = self._rendered("text"), self._rendered(kind)
        if self._shown("text") and not self._shown(kind):
            without = ""
        return bool(with_text) and (not without or without.count("None") > with_text.count("None"))

    def _adapted_call(self, call: Any) -> Any:
        if isinstance(call, dict) and isinstance(call.get("id"), str) and self._needs_short_ids:
            call = {**call, "id": _short_id(call["id"])}
        function: Any = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str) and self._needs_objects:
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):  # what is no JSON stays as it is
                return call
        elif isinstance(arguments, dict) and self._needs_json:
            arguments = json.dumps(arguments, ensure_ascii=False)
        else:
            return call
        return {**call, "function": {**function, "arguments": arguments}}

    @cached_property
    def _needs_objects(self) -> bool:
        """Whether JSON is refused, or encoded once more, so that its quotes are escaped."""
        as_object, as_json = self._with_arguments
        return _shows(as_object) and ('"key' not in as_json or '\\"key' in as_json)

    @cached_property
    def _needs_json(self) -> bool:
        """Whether an object is refused, or printed as Python does."""
        as_object, as_json = self._with_arguments
        return _shows(as_json) and not _shows(as_object)

    @cached_property
    def _with_arguments(self) -> tuple[str, str]:
        kind = "text" if self._shown("text") else "none"
        return self._samples[kind, "object"], self._samples[kind, "JSON"]

    @cached_property
    def _needs_short_ids(self) -> bool:
        samples = [(kind, form) for kind in _CONTENTS for form in ("object", "JSON")]
        taken = next((each for each in samples if self._samples[each]), None)
        return taken is not None and not self._sample(*taken, call_id=f"call_{PROBE}")

    def _rendered(self, kind: str) -> str:
        """Return a call beside a kind of content, with the arguments that show it, if any do."""
        return self._shown(kind) or self._samples[kind, "object"] or self._samples[kind, "JSON"]

    def _shown(self, kind: str) -> str:
        """Return a call as it is shown beside a kind of content; "" where it is not."""
        samples = (self._samples[kind, arguments] for arguments in ("object", "JSON"))
        return next((text for text in samples if _NAME in text), "")

    @cached_property
    def _samples(self) -> dict[tuple[str, str], str]:
        """The renderings of a call, by content and arguments; "" where it is refused."""
        return {
            (content, kind): self._sample(content, kind)
            for content in _CONTENTS
            for kind in ("object", "JSON")
        }

    def _sample(self, content: str, kind: str, call_id: str = _ID) -> str:
        arguments = _ARGUMENTS if kind == "object" else json.dumps(_ARGUMENTS)
        function = {"name": _NAME, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        answer = {"role": "assistant", **_CONTENTS[content], "tool_calls": [call]}
        result = {"role": "tool", "content": "0", "name": _NAME, "tool_call_id": call_id}
        messages = [{"role": "user", "content": "Hi"}, answer, result]
        return self.render(messages) or self.render(messages[:2])


def _shows(call: str) -> bool:
    return _ARGUMENTS["key"] in call and "{'key'" not in call


def _short_id(call_id: str) -> str:
    """Return the same nine letters and digits for the same id."""
    is_short = re.fullmatch("[A-Za-z0-9]{9}", call_id)
    return call_id if is_short else hashlib.sha256(call_id.encode()).hexdigest()[:9]
