"""The form of messages that a template takes is found by rendering, and messages are given it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cullama.chat.message_form import MessageForm
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


def form_of(source: str) -> MessageForm:
    template = ChatTemplate(source, "a test")

    def render(messages: Sequence[dict[str, Any]]) -> str:
        try:
            return template.render(messages)
        except CullamaError:
            return ""

    return MessageForm(render)


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


# --- the arguments of calls

CALL = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}<{{ c.function.name }}>"
END = "{% endfor %}{% endfor %}"
ARGUMENTS = {"city": "Zürich", "days": [1, None]}
AS_JSON = '{"city": "Zürich", "days": [1, null]}'


def adapted(source: str, arguments: Any) -> Any:
    calls = [{"id": "1", "function": {"name": "f", "arguments": arguments}}]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    found = form_of(source).adapt(message)
    assert calls[0]["function"] == {"name": "f", "arguments": arguments}  # which is the caller's
    return found["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    "printing",
    [
        "{{ c.function.arguments | tojson }}",  # it would encode JSON once more
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
        "{% for k in c.function.arguments %}{{ k }}: {{ c.function.arguments[k] }}{% endfor %}",
    ],
)
def test_arguments_in_json_are_objects_for_a_template_that_needs_them(printing: str) -> None:
    for arguments in (ARGUMENTS, AS_JSON):
        assert adapted(CALL + printing + END, arguments) == ARGUMENTS
    others: list[Any] = ["no JSON", "{" * 100_000, 7, None]
    for other in others:
        assert adapted(CALL + printing + END, other) == other


@pytest.mark.parametrize(
    "printing",
    [
        "{{ c.function.arguments + '.' }}",  # an object would be refused
        "{{ c.function.arguments }}",  # or printed as Python does
    ],
)
def test_arguments_are_json_for_a_template_that_prints_texts(printing: str) -> None:
    for arguments in (ARGUMENTS, AS_JSON):
        assert adapted(CALL + printing + END, arguments) == AS_JSON


def test_arguments_stay_as_they_are_for_a_template_that_takes_both() -> None:
    printing = "{% set a = c.function.arguments %}{{ a if a is string else a | tojson(indent=1) }}"
    for arguments in (ARGUMENTS, AS_JSON):
        assert adapted(CALL + printing + END, arguments) == arguments


def test_an_empty_content_is_none_where_the_template_would_leave_out_the_calls() -> None:
    source = (
        "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}"
    )
    message = {"role": "assistant", "content": "", "tool_calls": CALLS}
    found = form_of(source).adapt(message)
    assert found["content"] is None
    assert found["tool_calls"][0]["function"]["arguments"] == "{}"
    assert form_of(source).adapt({**message, "content": None})["content"] is None
