"""The form of calls, found in what templates write of samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import ChatStyle

from cullama.chat.format import ChatFormat
from cullama.chat.template import ChatTemplate
from cullama.chat.tools.syntax import (
    HERMES,
    QWEN_CODER,
    CallSyntax,
    MarkedSyntax,
    ParameterMarks,
    PythonSyntax,
    Syntax,
)

TEMPLATES = Path(__file__).parents[2] / "fixtures" / "templates"
TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
CALLS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls %}"
END = "{% endfor %}<|end|>{% endfor %}"


TAGGED = replace(
    QWEN_CODER,
    opening="<call>\n<function=",
    closing="</function>\n</call>",
    again="\n<call>\n<function=",
)


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
def test_each_familys_template_shows_its_form(style: str, expected: Syntax | None) -> None:
    assert format_of_style(style).answers.call_syntax == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("tools_json", CallSyntax("<call>", "</call>")),
        ("tools_xml", TAGGED),
        ("tools_typescript", None),
        ("strict_turns", CallSyntax("", is_list=True)),
    ],
)
def test_marks_of_any_name_are_found_around_json_alone(
    source: str, expected: Syntax | None
) -> None:
    text = (TEMPLATES / f"{source}.jinja").read_text(encoding="utf-8")
    assert format_of(text).answers.call_syntax == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}",
            MarkedSyntax("[TOOL_CALLS]", "[ARGS]", again="[TOOL_CALLS]"),
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
        (
            "<f>{{ c.function.name }}<a>{{ c.function.arguments | tojson }}",
            MarkedSyntax("<f>", "<a>", again="<f>"),
        ),
        ("{{ c.function.name }}\n{{ c.function.arguments | tojson }}", None),
        (
            "<call>{{ c.function.name }}: {{ c.function.arguments }}</call>",
            MarkedSyntax("<call>", ": ", "</call>", "<call>"),
        ),
        ("{{ c.function.arguments | tojson }}", None),
    ],
)
def test_the_form_of_calls_is_that_of_the_sample(call: str, expected: Syntax | None) -> None:
    assert format_of(TOOLS + CALLS + call + END).answers.call_syntax == expected


ITEMS = "{% for k, v in c.function.arguments | items %}"
TEXTS = "{{ v if v is string else v | tojson }}"
FORMS: dict[str, tuple[str, Syntax | None]] = {
    "Qwen3-Coder": (
        "{% for c in m.tool_calls %}{{ '\n<tool_call>\n<function=' ~ c.function.name ~ '>\n' }}"
        "{% for k, v in c.function.arguments | items %}"
        "{{ '<parameter=' ~ k ~ '>\n' ~ (v if v is string else v | tojson) ~ '\n</parameter>\n' }}"
        "{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}",
        QWEN_CODER,
    ),
    "GLM": (
        "{% for c in m.tool_calls %}{{ '\n<tool_call>' ~ c.function.name ~ '\n' }}"
        "{% for k, v in c.function.arguments | items %}<arg_key>{{ k }}</arg_key>\n"
        f"<arg_value>{TEXTS}</arg_value>\n{{% endfor %}}</tool_call>{{% endfor %}}",
        MarkedSyntax(
            "<tool_call>",
            "\n",
            "</tool_call>",
            "\n<tool_call>",
            parameter=ParameterMarks("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
        ),
    ),
    "MiniMax": (
        "{% if m.tool_calls %}<calls>\n{% for c in m.tool_calls %}"
        "{{ '<invoke name=\"' ~ c.function.name ~ '\">\n' }}"
        "{% for k, v in c.function.arguments | items %}"
        "{{ '<parameter name=\"' ~ k ~ '\">' ~ v ~ '</parameter>\n' }}{% endfor %}"
        "{{ '</invoke>\n' }}{% endfor %}</calls>{% endif %}",
        MarkedSyntax(
            '<calls>\n<invoke name="',
            '">\n',
            "</invoke>",
            '\n<invoke name="',
            "\n</calls>",
            ParameterMarks('<parameter name="', '">', "</parameter>\n"),
        ),
    ),
    "DeepSeek": (
        "{% for c in m.tool_calls %}{{ '<｜calls▁begin｜>' if loop.first else '\n' }}"
        "{{ '<｜call▁begin｜>' ~ c.type ~ '<｜sep｜>' ~ c.function.name ~ '\n```json\n' }}"
        "{{ c.function.arguments | tojson if c.function.arguments is mapping else "
        "c.function.arguments }}{{ '\n```<｜call▁end｜>' }}"
        "{{ '<｜calls▁end｜>' if loop.last }}{% endfor %}",
        MarkedSyntax(
            "<｜calls▁begin｜><｜call▁begin｜>function<｜sep｜>",
            "\n```json\n",
            "\n```<｜call▁end｜>",
            "\n<｜call▁begin｜>function<｜sep｜>",
            "<｜calls▁end｜>",
        ),
    ),
    "Mistral with ids": (
        "{% for c in m.tool_calls %}{{ '[TOOL_CALLS]' ~ c.function.name ~ '[CALL_ID]' ~ c.id ~ "
        "'[ARGS]' ~ (c.function.arguments | tojson) }}{% endfor %}",
        MarkedSyntax("[TOOL_CALLS]", "[ARGS]", again="[TOOL_CALLS]"),
    ),
    "LFM2": (
        "{% if m.tool_calls %}{{ '<|calls|>[' }}{% for c in m.tool_calls %}"
        "{{ c.function.name ~ '(' }}{% for k, v in c.function.arguments | items %}"
        "{{ k ~ '=' ~ (v | tojson) ~ (', ' if not loop.last else '') }}{% endfor %}"
        "{{ ')' ~ (', ' if not loop.last else '') }}{% endfor %}{{ ']<|/calls|>' }}{% endif %}",
        PythonSyntax("<|calls|>", "<|/calls|>"),
    ),
    "OLMo": (
        "{% if m.tool_calls %}<function_calls>\n{% for c in m.tool_calls %}"
        "{{ c.function.name ~ '(' }}{% for k, v in c.function.arguments | items %}"
        "{{ k ~ '=\"' ~ v ~ '\"' ~ (', ' if not loop.last else '') }}{% endfor %}"
        "{{ ')\n' }}{% endfor %}</function_calls>{% endif %}",
        PythonSyntax("<function_calls>", "</function_calls>", is_list=False),
    ),
    "a list of Python's": (
        "{% if m.tool_calls %}{{ '[' }}{% for c in m.tool_calls %}"
        "{{ c.function.name ~ '(' }}{% for k, v in c.function.arguments | items %}"
        "{{ k ~ '=' ~ (v | tojson) ~ (', ' if not loop.last else '') }}{% endfor %}"
        "{{ ')' ~ (', ' if not loop.last else '') }}{% endfor %}{{ ']' }}{% endif %}",
        PythonSyntax(),
    ),
    "Command R": (
        "{% if m.tool_calls %}Action: ```json\n[{% for c in m.tool_calls %}\n    "
        "{{ {'tool_name': c.function.name, 'parameters': c.function.arguments} | tojson }}"
        "{{ ',' if not loop.last }}{% endfor %}\n]```{% endif %}",
        CallSyntax(
            "Action: ```json",
            "```",
            is_list=True,
            key="parameters",
            before="\n",
            name_key="tool_name",
        ),
    ),
    "Command R7B": (
        "{% if m.tool_calls %}<|START_ACTION|>[{% for c in m.tool_calls %}\n    "
        "{{ {'tool_call_id': loop.index0 | string, 'tool_name': c.function.name, "
        "'parameters': c.function.arguments} | tojson }}{{ ',' if not loop.last }}{% endfor %}\n]"
        "<|END_ACTION|>{% endif %}",
        CallSyntax(
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            is_list=True,
            key="parameters",
            name_key="tool_name",
        ),
    ),
    "InternLM": (
        "{% for c in m.tool_calls %}<|action_start|><|plugin|>\n"
        "{{ {'name': c.function.name, 'parameters': c.function.arguments} | tojson }}"
        "<|action_end|>\n{% endfor %}",
        CallSyntax("<|action_start|><|plugin|>", "<|action_end|>", key="parameters", before="\n"),
    ),
}


@pytest.mark.parametrize("family", list(FORMS))
def test_forms_of_public_families_are_found_by_their_marks(family: str) -> None:
    call, expected = FORMS[family]
    messages = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if m.content }}"
    source = f"{TOOLS}{messages}{call}<|im_end|>\n{{% endfor %}}"
    assert format_of(source).answers.call_syntax == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("<tool_call>\n<function=name>\n<parameter=key>", QWEN_CODER),
        ("write [func_name1(key=value), func_name2()]", PythonSyntax()),
    ],
)
def test_forms_that_are_told_in_words_are_known(words: str, expected: Syntax) -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    assert format_of(f"{{% if tools %}}{words}{TOOLS}{{% endif %}}{plain}").answers.call_syntax == (
        expected
    )


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
