"""No string of tools, calls or results writes a control token, whatever the family's template does
with it."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest
from chat_fixtures import ChatStyle
from hypothesis import given, settings
from hypothesis import strategies as st

from cullama.chat.format import ChatFormat
from cullama.chat.template import ChatTemplate

STYLES = ("llama31", "mistral_v3", "qwen25", "qwen3")


@cache
def format_of(style: str) -> ChatFormat:
    found = ChatStyle(style)
    names = {key: it for key, it in found.names.items() if isinstance(it, str)}
    template = ChatTemplate(found.source, style, names)
    return ChatFormat(template, found.tokenizer, None, found.variables)


def conversation(text: str, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return messages and tools that have a text in every place that a client can write."""
    arguments = json.dumps({"city": text, "more": [text, {"deep": text}]})
    call = {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    schema = {"type": "object", "description": text, "properties": {"city": {"enum": [text]}}}
    tool = {"name": name, "description": text, "parameters": schema}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"a{text}b"},
        {"role": "user", "content": [{"type": "text", "text": f"a{text}b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": f"a{text}b", "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "Yes."},  # the model's own words keep its own marks
        {"role": "user", "content": f"a{text}b"},
    ]
    return messages, [{"type": "function", "function": tool}]


def control_tokens(style: str, text: str, name: str = "weather") -> Counter[int]:
    format = format_of(style)
    messages, tools = conversation(text, name)
    ids = format.encode(format.write(messages, tools=tools))
    return Counter(token for token in ids if token in format.control_ids)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=20)
@given(data=st.data())
def test_strings_of_tools_calls_and_results_are_text(style: str, data: st.DataObject) -> None:
    added = format_of(style)._tokenizer.tokenizer.get_added_tokens_decoder()
    pieces = [format_of(style)._tokenizer.tokenizer.id_to_token(it) for it in added]
    marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "</s>", "\\u003c", "<", "|>", "\\", '"']
    known = st.sampled_from([*filter(None, pieces), *marks])
    text = data.draw(st.lists(known | st.text(max_size=3), max_size=5).map("".join))
    text = text.encode(errors="replace").decode()
    assert control_tokens(style, text) == control_tokens(style, "plain")


@pytest.mark.parametrize("style", STYLES)
def test_names_of_functions_are_text(style: str) -> None:
    format = format_of(style)
    for mark in (format._tokenizer.tokenizer.id_to_token(token) for token in format.control_ids):
        assert control_tokens(style, "plain", f"f{mark}") == control_tokens(style, "plain")
