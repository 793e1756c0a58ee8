"""Chat templates: the text that transformers would write, and errors that name the template."""

from __future__ import annotations

import enum
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from chat_fixtures import ChatStyle, chat_styles

from cullama.chat.template import MAX_FILE_BYTES, ChatTemplate
from cullama.errors import ChatTemplateError, UsageError

WHERE = "somewhere/tokenizer_config.json: chat_template"
HI = [{"role": "user", "content": "Hi"}]


def render(source: str, messages: Any = HI, **variables: Any) -> str:
    return ChatTemplate(source, WHERE, {"bos_token": "<s>"}).render(messages, **variables)


def refusal(source: str) -> str:
    with pytest.raises(ChatTemplateError) as caught:
        render(source)
    assert str(caught.value).startswith(WHERE)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- the same as transformers


def test_at_least_14_templates_with_8_conversations_each_are_compared() -> None:
    styles = chat_styles()
    assert len(styles) >= 14
    assert all(len(list(style.rendered())) >= 8 for style in styles)
    refused = [one for style in styles for one in style.rendered() if one.refusal]
    assert 5 <= len(refused) <= 60


@pytest.mark.parametrize("style", chat_styles(), ids=lambda style: style.name)
def test_text_and_token_ids_equal_those_of_transformers(style: ChatStyle) -> None:
    template = ChatTemplate(style.source, style.name, style.names)
    for one in style.rendered():
        if one.refusal is not None:
            with pytest.raises(UsageError) as caught:
                template.render(one.messages, one.add_generation_prompt, **style.variables)
            assert str(caught.value) == f"the chat template refuses these messages: {one.refusal}"
            continue
        text = template.render(one.messages, one.add_generation_prompt, **style.variables)
        assert text == one.text, one.name
        ids = style.tokenizer.encode(text, add_special_tokens=False, allow_special=True)
        assert ids == one.token_ids, one.name


# --- what templates know


def test_special_tokens_and_variables_are_defined_and_tools_are_none() -> None:
    source = "{{ bos_token }}{{ tools is none }}{{ documents is none }}{{ pad_token is defined }}"
    assert render(source) == "<s>TrueTrueFalse"
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"


def test_variables_override_special_tokens() -> None:
    assert render("{{ bos_token }}", bos_token="<b>") == "<b>"
    assert render("{{ messages[0].content }}") == "Hi"


def test_add_generation_prompt_is_true_by_default() -> None:
    template = ChatTemplate("{{ add_generation_prompt }}", WHERE)
    assert template.render(HI) == "True"
    assert template.render(HI, add_generation_prompt=False) == "False"


def test_templates_see_further_entries_of_messages() -> None:
    messages = [
        {"role": "tool", "content": "", "calls": [{"id": 7, "arguments": {"a": [1, None]}}]}
    ]
    assert render("{{ messages[0].calls[0].arguments.a | tojson }}", messages) == "[1, null]"
    assert render("{{ messages[0].thinking is defined }}", messages) == "False"


def test_parts_and_tool_calls_without_content_reach_the_template_as_they_are() -> None:
    parts = [{"type": "text", "text": "Hi"}]
    source = "{{ messages | map(attribute='content') | list }}"
    assert render(source, [{"role": "user", "content": parts}]) == f"[{parts}]"
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
    assert render(source, [calls]) == "[None]"
    del calls["content"]
    assert render("{{ messages[0].content is defined }}", [calls]) == "False"


def test_strftime_now_returns_the_current_time() -> None:
    before = datetime.now().strftime("%d %b %Y")
    now = render("{{ strftime_now('%d %b %Y') }}")
    assert now in (before, datetime.now().strftime("%d %b %Y"))


def test_one_template_renders_many_conversations() -> None:
    template = ChatTemplate("{% set n = messages | length %}{{ n }}", WHERE)
    assert [template.render(HI * count) for count in (1, 2, 1)] == ["1", "2", "1"]


def test_jinja2_is_imported_by_the_first_rendering() -> None:
    program = """
import sys
import cullama
from cullama.chat_template import ChatTemplate
template = ChatTemplate("a", "here")
assert "jinja2" not in sys.modules
assert template.render([]) == "a"
assert "jinja2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- messages that are none


class Role(str, enum.Enum):
    USER = "user"


@pytest.mark.parametrize(
    ("messages", "said"),
    {
        "a text": (["Hi"], "message 0 is 'Hi', expected a role and a text: {'role'"),
        "nothing": ([*HI, None], "message 1 is None, expected a role and a text"),
        "no role": ([{"content": "a"}], "message 0 has no role, expected a role and a text"),
        "no content": ([*HI, {"role": "user"}], "message 1 has no content, expected a role and"),
        "a number": ([{"role": "user", "content": 3}], "message 0 has the content 3, expected a"),
        "no parts": ([{"role": "user", "content": []}], "message 0 has the content [], expected"),
        "a part without a text": (
            [{"role": "user", "content": [{"type": "text"}]}],
            "message 0 has the part {'type': 'text'}, expected {'type': 'text', 'text': 'Hi'}",
        ),
        "an image": (
            [{"role": "user", "content": [{"type": "image"}]}],
            "message 0 has a part of type 'image', expected text: the model reads nothing else",
        ),
        "calls": ([{**HI[0], "tool_calls": 3}], "message 0 has the tool_calls 3, expected a list"),
        "null": ([{"role": None, "content": "a"}], "message 0 has the role None, expected a role"),
        "null content": ([{"role": "user", "content": None}], "message 0 has the content None, e"),
        "an object": ([{**HI[0], "x": Path()}], "message 0 holds a PosixPath, expected texts"),
        "a key": ([HI[0] | {7: ""}], "message 0 holds a key that is not a string"),
    }.values(),
)
def test_a_malformed_message_is_refused_by_its_index(messages: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        render("{{ messages }}", messages)
    assert str(caught.value).startswith(said)
    assert not isinstance(caught.value, ChatTemplateError)


def test_an_endlessly_nested_message_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="message 0 is nested more than 32 deep"):
        render("", [{**HI[0], "x": endless}])
    with pytest.raises(UsageError, match="variable 'x' holds a function"):
        render("", x=render)


def test_messages_may_be_any_mappings_with_str_subclasses() -> None:
    message = MappingProxyType({"role": Role.USER, "content": "Hi"})
    source = "{% for m in messages %}{{ m.role }}{{ m.items() | list }}{% endfor %}"
    assert render(source, (message,)) == "user[('role', 'user'), ('content', 'Hi')]"


def test_a_template_cannot_change_the_messages() -> None:
    messages = [{"role": "user", "content": "Hi", "x": [1]}]
    with pytest.raises(ChatTemplateError):
        render("{{ messages[0].update(x=3) }}", messages)
    for source in ("{{ messages[0].x.append(2) }}", "{{ messages[0].x.pop() }}{{ x.pop() }}"):
        render(source, messages, x=messages)
    assert messages == [{"role": "user", "content": "Hi", "x": [1]}]


# --- templates that are wrong


def test_raise_exception_in_a_template_is_a_usageerror() -> None:
    with pytest.raises(UsageError) as caught:
        render("{{ raise_exception('Roles must\n alternate \x1b[31m') }}")
    said = r"the chat template refuses these messages: Roles must alternate \x1b[31m"
    assert str(caught.value) == said
    with pytest.raises(UsageError, match=r"messages: no reason given$"):
        render("{{ raise_exception('') }}")


def test_a_long_reason_of_raise_exception_is_truncated() -> None:
    with pytest.raises(UsageError) as caught:
        render("{{ raise_exception('a ' * 100000) }}")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{% for %}", "line 2 is not valid jinja2: Expected an expression"),
        ("{{ 'a' | nothing }}", "the template uses the filter 'nothing' in line 1, which cullama"),
        ("{{ 'a' is nothing }}", "uses the test 'nothing' in line 1, which cullama's sandbox does"),
        ("{% filter nothing %}{% endfilter %}", "uses the filter 'nothing' in line 1, which cul"),
        ("{{ [1] | map('nothing') | list }}", "uses the filter 'nothing', which cullama's sandb"),
        ("{{ [1] | select('nothing') | list }}", "uses the test 'nothing', which cullama's sandb"),
        (
            "{{ 'a'.encode() }}",
            "uses 'encode' of a str, which cullama's sandbox does not have; use",
        ),
        ("{{ messages.extend([]) }}", "uses 'extend' of a list, which cullama's sandbox does not"),
        (
            "a\n{% do x %}",
            "uses the tag 'do' in line 2, which cullama's sandbox does not have; use",
        ),
        ("{% if 1 %}{% do x %}{% endif %}", "uses the tag 'do' in line 1, which cullama's sandbox"),
        ("{% if 1 %}{% endfor %}", "line 1 is not valid jinja2: Encountered unknown tag 'endfor'"),
        ("{{ nothing.at_all }}", "the template fails: 'nothing' is undefined"),
        ("{{ 'a' + 1 }}", "the template fails: can only concatenate str"),
        ("{{ 1 / 0 }}", "the template fails: division by zero"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "or recurses without end"),
        ("{{ ''.__class__ }}", "the template reaches for '__class__' of a str"),
        ("{{ 'a' * 10**9 }}", "asks for more time or memory than these messages can need"),
        ("{{ 'a'() }}", "the template calls a str"),
        ("{% for i in [1] %}{% for j in loop %}{% endfor %}{% endfor %}", "iterates over a loopco"),
        ("{% include 'a' %}", "the template uses include in line 1, which cullama's sandbox"),
    ],
)
def test_a_failing_template_is_named_with_the_reason_and_the_remedy(source: str, said: str) -> None:
    message = refusal(source)
    assert said in message
    assert message.endswith("; use another with --template FILE")


def test_an_invalid_template_fails_at_each_rendering() -> None:
    template = ChatTemplate("{% for %}", WHERE)
    for _ in range(2):
        with pytest.raises(ChatTemplateError, match="is not valid jinja2"):
            template.render(HI)


# --- a file of one's own


def test_a_template_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ bos_token }}é{{ messages[0].content }}\n", encoding="utf-8")
    template = ChatTemplate.from_file(path, {"bos_token": "<s>"})
    assert template.render(HI) == "<s>éHi"
    assert template.where == str(path)


def test_a_file_that_cannot_be_a_template_is_refused(tmp_path: Path) -> None:
    def refusal_of(path: Path) -> str:
        with pytest.raises(ChatTemplateError) as caught:
            ChatTemplate.from_file(path, {})
        assert str(caught.value).startswith(f"{path}: ")
        return str(caught.value)

    assert "No such file or directory, expected a chat template" in refusal_of(tmp_path / "none")
    assert "not a regular file" in refusal_of(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "is not text" in refusal_of(tmp_path / "bytes")
    (tmp_path / "large").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    assert "holds more than 1,048,576 bytes" in refusal_of(tmp_path / "large")
