"""The form of content that a template takes is found by rendering, and messages are given it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cullama.chat.content_form import ContentForm
from cullama.chat.template import ChatTemplate
from cullama.errors import CullamaError

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]

TEXT_ONLY = "{% for m in messages %}<{{ m.role }}>{{ m.content + '.' }}{% endfor %}"
PRINTS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PRINTS_JSON = "{% for m in messages %}<{{ m.role }}>{{ m.content | tojson }}{% endfor %}"
PARTS_ONLY = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content if part.type == 'text' %}"
    "{{ part.text }}{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}"
    "{% elif m.content is iterable %}{% for part in m.content %}[{{ part.text }}]{% endfor %}"
    "{% endif %}{% endfor %}"
)


def form_of(source: str) -> ContentForm:
    template = ChatTemplate(source, "a test")

    def render(messages: Sequence[dict[str, Any]]) -> str:
        try:
            return template.render(messages)
        except CullamaError:
            return ""

    return ContentForm(render)


def said(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("source", [TEXT_ONLY, PRINTS, PRINTS_JSON])
def test_a_template_that_takes_text_gets_text(source: str) -> None:
    assert form_of(source).adapt(said(PARTS)) == said("a\nb")
    assert form_of(source).adapt(said("a")) == said("a")


def test_a_template_that_takes_both_gets_what_was_given() -> None:
    for content in ("a", PARTS):
        assert form_of(BOTH).adapt(said(content)) == said(content)


def test_a_template_that_takes_nothing_but_parts_gets_parts() -> None:
    assert form_of(PARTS_ONLY).adapt(said("a")) == said([{"type": "text", "text": "a"}])
    assert form_of(PARTS_ONLY).adapt(said(PARTS)) == said(PARTS)


def test_a_template_that_prints_no_content_gets_what_was_given() -> None:
    assert form_of("{{ messages | length }}").adapt(said("a")) == said("a")


@pytest.mark.parametrize(
    ("source", "content"),
    [
        (PRINTS, ""),  # it would write "None"
        (TEXT_ONLY, ""),  # it would fail
        (BOTH, None),
        ("{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% endfor %}.", None),
    ],
)
def test_no_content_beside_tool_calls_is_empty_where_it_would_be_printed_as_none(
    source: str, content: str | None
) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": CALLS}
    assert form_of(source).adapt(message) == {**message, "content": content}


def test_missing_content_beside_tool_calls_is_empty_where_the_template_fails_without() -> None:
    message = {"role": "assistant", "tool_calls": CALLS}
    assert form_of(TEXT_ONLY).adapt(message) == {**message, "content": ""}
    assert form_of(PRINTS).adapt(message) == message
