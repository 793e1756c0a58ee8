"""The form of calls, found in what templates write of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import ChatStyle

from cullama.chat.format import ChatFormat
from cullama.chat.template import ChatTemplate
from cullama.chat.tools.syntax import HERMES, CallSyntax

TEMPLATES = Path(__file__).parents[2] / "fixtures" / "templates"
TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
CALLS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls %}"
END = "{% endfor %}<|end|>{% endfor %}"


def format_of(source: str, for_tools: str | None = None) -> ChatFormat:
    tools = ChatTemplate(for_tools, "tools.jinja") if for_tools else None
    tokenizer = ChatStyle("chatml").tokenizer
    return ChatFormat(ChatTemplate(source, "test.jinja", for_tools=tools), tokenizer, None)


def format_of_style(name: str) -> ChatFormat:
    style = ChatStyle(name)
    names = {key: it for key, it in style.names.items() if isinstance(it, str)}
    return ChatFormat(
        ChatTemplate(style.source, name, names), style.tokenizer, None, style.variables
    )


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("qwen25", HERMES),
        ("qwen3", HERMES),
        ("llama31", CallSyntax("", key="parameters")),
        ("mistral_v3", CallSyntax("[TOOL_CALLS]", is_list=True, before=" ")),
        ("smollm2", None),
        ("llama3", None),
        ("gemma", None),
    ],
)
def test_each_familys_template_shows_its_form(style: str, expected: CallSyntax | None) -> None:
    assert format_of_style(style).answers.call_syntax == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("tools_json", CallSyntax("<call>", "</call>")),
        ("tools_xml", None),
        ("tools_typescript", None),
        ("strict_turns", CallSyntax("", is_list=True)),
    ],
)
def test_marks_of_any_name_are_found_around_json_alone(
    source: str, expected: CallSyntax | None
) -> None:
    text = (TEMPLATES / f"{source}.jinja").read_text(encoding="utf-8")
    assert format_of(text).answers.call_syntax == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}",
            CallSyntax("[TOOL_CALLS]", arguments_mark="[ARGS]"),
        ),
        (
            "<tool_call>[{{ c.function | tojson }}]</tool_call>",
            CallSyntax("<tool_call>", "</tool_call>", is_list=True),
        ),
        (
            '<|call|> {"type": "function", "name": "{{ c.function.name }}", '
            '"parameters": {{ c.function.arguments }}}',
            CallSyntax("<|call|>", key="parameters", before=" "),
        ),
        ("<tool_call>{{ c.function.name }}</tool_call>", None),
        ("<f>{{ c.function.name }}<a>{{ c.function.arguments | tojson }}", None),
        ("{{ c.function.arguments | tojson }}", None),
    ],
)
def test_the_form_of_calls_is_that_of_the_sample(call: str, expected: CallSyntax | None) -> None:
    assert format_of(TOOLS + CALLS + call + END).answers.call_syntax == expected


def test_a_template_that_only_tells_of_calls_in_words_has_their_form() -> None:
    tell = "Call by <tool_call></tool_call>: " + TOOLS
    assert format_of(tell + CALLS + END).answers.call_syntax == HERMES


def test_a_template_of_its_own_for_tools_decides() -> None:
    own = TOOLS + CALLS + "<tool_call>\n{{ c.function | tojson }}\n</tool_call>" + END
    assert format_of(CALLS + END, own).answers.call_syntax == HERMES
    assert format_of(CALLS + END).answers.call_syntax is None


def test_tools_that_are_left_out_have_no_form() -> None:
    assert (
        format_of("{% if tools %}<tool_call>{% endif %}" + CALLS + END).answers.call_syntax is None
    )


def test_marks_that_are_control_tokens_are_shown_in_the_answers_text() -> None:
    shown = format_of_style("mistral_v3").answers.shown_tokens
    assert list(shown.values()) == ["[TOOL_CALLS]"]
    assert format_of_style("qwen3").answers.shown_tokens == {}


@pytest.mark.parametrize(("style", "expected"), [("qwen3", True), ("qwen25", False)])
def test_reasoning_is_known_where_the_template_names_its_marks(style: str, expected: bool) -> None:
    assert format_of_style(style).answers.has_reasoning is expected


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert "<|im_start|>system\nBe brief." in format_of_style("chatml").write(messages)
    knows = "{% for m in messages %}{{ m.role }}{{ '' if m.role == 'developer' }};{% endfor %}"
    assert format_of(knows).write(messages) == "developer;user;"
    assert messages[0]["role"] == "developer"


def test_ids_of_calls_are_short_where_the_template_takes_no_others() -> None:
    format = format_of_style("mistral_v3")
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
    ]
    text = format.write(messages)
    short = text.partition('"id": "')[2][:9]
    assert short.isalnum()
    assert f'"call_id": "{short}"' in text
    call["id"] = messages[2]["tool_call_id"] = "abc123XYZ"
    assert format.write(messages).count("abc123XYZ") == 2
