"""Calls and reasoning in the forms of each family, however the text is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marked_syntaxes import GLM, LFM, NAMED, OLMO

from cullama.chat.tools.answers import call_parser
from cullama.chat.tools.events import CallArguments, Event, ParsedAnswer, Reasoning, Text
from cullama.chat.tools.functions import FunctionTool, ToolUse
from cullama.chat.tools.parser import AnswerParser, CallParser
from cullama.chat.tools.syntax import (
    HERMES,
    LLAMA,
    MISTRAL,
    QWEN_CODER,
    CallSyntax,
    MarkedSyntax,
    PythonSyntax,
    Syntax,
)
from cullama.chat.tools.thoughts import ThoughtSplitter

DEEPSEEK = MarkedSyntax(
    "<｜calls▁begin｜><｜call▁begin｜>function<｜sep｜>",
    "\n```json\n",
    "\n```<｜call▁end｜>",
    "\n<｜call▁begin｜>function<｜sep｜>",
    "<｜calls▁end｜>",
)
PYTHON = PythonSyntax()
SYNTAXES: dict[str, Syntax] = {
    "Hermes": HERMES,
    "Llama": LLAMA,
    "Mistral": MISTRAL,
    "Mistral's later form": NAMED,
    "DeepSeek": DEEPSEEK,
    "Qwen3-Coder": QWEN_CODER,
    "GLM": GLM,
    "LFM2": LFM,
    "OLMo": OLMO,
    "Python": PYTHON,
}
NAMES = ("weather", "add")
TYPES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "wet": {"type": "boolean"},
    "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    "tags": {"type": "array", "items": {"type": "string"}},
    "where": {"$ref": "#/$defs/place"},
    "either": {"type": ["string", "integer"]},
}
SCHEMA = {"type": "object", "properties": TYPES, "$defs": {"place": {"type": "object"}}}
FUNCTIONS = [FunctionTool("weather", None, SCHEMA), FunctionTool("add")]


def read(
    pieces: Sequence[str],
    syntax: Syntax | None = HERMES,
    is_open: bool = False,
    is_constrained: bool = False,
    is_single: bool = False,
) -> list[Event]:
    """Return the events of an answer, with those joined that follow one another in one part."""
    use = ToolUse(FUNCTIONS, "required" if is_constrained else "auto", is_parallel=not is_single)
    calls = call_parser(syntax, use) if syntax else None
    parser = AnswerParser(ThoughtSplitter(is_open), calls)
    events = [event for piece in pieces for event in parser.add(piece)]
    joined: list[Event] = []
    for event in [*events, *parser.add("", is_last=True)]:
        last = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            joined[-1] = CallArguments(event.call, last.text + event.text)
        else:
            joined.append(event)
    assert "" not in [getattr(event, "text", None) for event in joined]
    return joined


def answer(text: str, syntax: Syntax | None = HERMES, **how: Any) -> ParsedAnswer:
    return ParsedAnswer.of(read([text], syntax, **how))


def calls(text: str, syntax: Syntax, **how: Any) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in answer(text, syntax, **how).calls]


ONE = '{"name": "weather", "arguments": {"city": "Łódź </tool_call> \\" {"}}'
LIMA = '{"city": "Lima"}'


@pytest.mark.parametrize(
    ("syntax", "text", "expected"),
    [
        (HERMES, f"<tool_call>\n{ONE}\n</tool_call>", 1),
        (HERMES, f"<tool_call>{ONE}</tool_call>\n<tool_call>\n{ONE}\n</tool_call>", 2),
        (HERMES, f"<tool_call>[\n{ONE},\n{ONE}\n]</tool_call>", 2),
        (HERMES, f"<tool_call>{ONE}", 1),
        (MISTRAL, f"[TOOL_CALLS] [{ONE}, {ONE}]", 2),
        (MISTRAL, f"[TOOL_CALLS][{ONE}][TOOL_CALLS][{ONE}]", 2),
        (LLAMA, ONE, 1),
        (LLAMA, f"<|python_tag|>{ONE}", 1),
        (LLAMA, f"\n\n{ONE}; {ONE} ; {ONE}", 3),
        (LLAMA, ONE.replace("arguments", "parameters"), 1),
    ],
)
def test_calls_are_read_in_each_familys_form(syntax: CallSyntax, text: str, expected: int) -> None:
    found = answer(text, syntax)
    assert found.text == found.reasoning == ""
    assert [call.name for call in found.calls] == ["weather"] * expected
    arguments = {"city": 'Łódź </tool_call> " {'}
    assert [json.loads(call.arguments) for call in found.calls] == [arguments] * expected
    assert len({call.id for call in found.calls}) == expected


def test_mistrals_later_form_names_the_function_before_its_arguments() -> None:
    text = f"[TOOL_CALLS]weather[ARGS]{LIMA}[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{{}}"
    assert calls(text, NAMED) == [("weather", LIMA), ("add", "{}")]
    assert answer("[TOOL_CALLS]climate[ARGS]{}", NAMED).text == "[TOOL_CALLS]climate[ARGS]{}"


CITY = "<arg_key>city</arg_key>\n<arg_value>Lima</arg_value>"


def in_marks(**arguments: str) -> str:
    """Return a call in Qwen3-Coder's form."""
    entries = (f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function=weather>\n{''.join(entries)}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (DEEPSEEK, f"{DEEPSEEK.opening}weather\n```json\n{LIMA}\n```<｜call▁end｜><｜calls▁end｜>"),
        (DEEPSEEK, f"{DEEPSEEK.opening}weather\n```json\n{LIMA}"),
        (QWEN_CODER, in_marks(city="Lima")),
        (QWEN_CODER, f"\n{in_marks(city='Lima')}\n"),
        (QWEN_CODER, in_marks(city="Lima").removesuffix("\n</tool_call>")),
        (QWEN_CODER, in_marks(city="Lima").replace(">\n", ">").replace("\n<", "<")),
        (
            GLM,
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Lima</arg_value>\n</tool_call>",
        ),
        (GLM, "<tool_call>weather<arg_key>city</arg_key><arg_value>Lima</arg_value></tool_call>"),
        (LFM, "<|calls|>[weather(city='Lima')]<|/calls|>"),
        (LFM, '<|calls|>[weather(city="Lima",)]'),
        (OLMO, "<calls>\nweather(city='Lima')\n</calls>"),
        (OLMO, "<calls>weather(city='Lima')"),
        (PYTHON, " [weather(city = 'Li' 'ma')] "),
        (LLAMA, "\n[weather(city='Lima')]"),
    ],
)
def test_calls_that_are_no_json_objects_are_read(syntax: Syntax, text: str) -> None:
    for how in (False, True) if syntax != LLAMA else (False,):
        found = answer(text, syntax, is_constrained=how)
        assert [(call.name, call.arguments) for call in found.calls] == [("weather", LIMA)]
        assert found.text.strip() == ""


@pytest.mark.parametrize("is_constrained", [False, True])
@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (
            DEEPSEEK,
            f"{DEEPSEEK.opening}weather\n```json\n{LIMA}\n```<｜call▁end｜>\n<｜call▁begin｜>function"
            "<｜sep｜>add\n```json\n{}\n```<｜call▁end｜><｜calls▁end｜>",
        ),
        (NAMED, f"[TOOL_CALLS]weather[ARGS]{LIMA}[TOOL_CALLS]add[ARGS]{{}}"),
        (
            QWEN_CODER,
            f"{in_marks(city='Lima')}\n<tool_call>\n<function=add>\n</function>\n</tool_call>",
        ),
        (
            GLM,
            f"<tool_call>weather\n{CITY}\n</tool_call>\n<tool_call>add\n</tool_call>",
        ),
        (LFM, '<|calls|>[weather(city="Lima"), add()]<|/calls|>'),
        (OLMO, '<calls>\nweather(city="Lima")\nadd()\n</calls>'),
        (PYTHON, '[weather(city="Lima"), add()]'),
    ],
)
def test_several_calls_follow_one_another_in_each_form(
    syntax: Syntax, text: str, is_constrained: bool
) -> None:
    expected = [("weather", LIMA), ("add", "{}")]
    assert calls(text, syntax, is_constrained=is_constrained) == expected
    behind = answer(f"So:\n{text}\n\nDone.", syntax, is_constrained=is_constrained)
    if syntax != PYTHON:
        assert behind.text == "So:Done."
        assert len(behind.calls) == 2
    single = answer(f"{text} more", syntax, is_constrained=is_constrained, is_single=True)
    assert [call.name for call in single.calls] == ["weather"]
    assert single.text == ""


def test_texts_between_marks_have_the_types_of_the_schema() -> None:
    given = {
        "city": "3",
        "days": "3",
        "wet": "True",
        "share": "null",
        "tags": '["a", "b"]',
        "where": '{"x": 1}',
        "either": "4",
        "other": "1.5",
    }
    [(_, arguments)] = calls(in_marks(**given), QWEN_CODER)
    assert json.loads(arguments) == {
        "city": "3",
        "days": 3,
        "wet": True,
        "share": None,
        "tags": ["a", "b"],
        "where": {"x": 1},
        "either": 4,
        "other": 1.5,
    }
    wrong = {"days": "soon", "wet": "maybe", "share": "NaN", "tags": "[a", "other": "Łódź"}
    [(_, arguments)] = calls(in_marks(**wrong), QWEN_CODER)
    assert json.loads(arguments) == wrong


def test_a_text_between_marks_keeps_its_lines_and_spaces() -> None:
    text = '\n  def f():\n      return "</param>" # <parameter=x>\n\n'
    [(_, arguments)] = calls(in_marks(city=text), QWEN_CODER)
    assert json.loads(arguments) == {"city": text}


def test_pythons_literals_become_json() -> None:
    written = [
        r"city='Lima\n\''",
        "days=-3, wet=True, share=None",
        "tags=['a', \"b\"], where={'x': 1.5}",
        r"either=null, other=(1, 2), more='\ud83d\ude00'",
    ]
    [(_, arguments)] = calls(f"[weather({', '.join(written)})]", PYTHON)
    found = json.loads(arguments)
    assert found["city"] == "Lima\n'"
    assert (found["days"], found["wet"], found["share"]) == (-3, True, None)
    assert (found["tags"], found["where"]) == (["a", "b"], {"x": 1.5})
    assert (found["either"], found["other"], found["more"]) == (None, [1, 2], "😀")


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (QWEN_CODER, "<tool_call>\n<function=climate>\n</function>\n</tool_call>"),
        (QWEN_CODER, "<tool_call>\n<function=weather>\n<parameter=city>\nLima\n</parameter>"),
        (QWEN_CODER, "<tool_call>\n<function=weather>\nLima</function>\n</tool_call>"),
        (QWEN_CODER, in_marks(city="Lima").replace("parameter=city", "parameter=" + "x" * 300)),
        (QWEN_CODER, "<tool_call> is how a call begins"),
        (QWEN_CODER, "<tool_call>\n<func"),
        (QWEN_CODER, f"<tool_call>\n{ONE}\n</tool_call>"),
        (GLM, "<tool_call>weather\n<arg_key>city</arg_key>\n</tool_call>"),
        (DEEPSEEK, f"{DEEPSEEK.opening}weather\n```json\n[1]\n```<｜call▁end｜>"),
        (DEEPSEEK, f"{DEEPSEEK.opening}climate\n```json\n{LIMA}\n```<｜call▁end｜>"),
        (DEEPSEEK, f'{DEEPSEEK.opening}weather\n```json\n{{"a": NaN}}\n```'),
        (LFM, "<|calls|>[weather(city=Lima)]<|/calls|>"),
        (LFM, "<|calls|>[weather('Lima')]<|/calls|>"),
        (LFM, "<|calls|>[weather(**{'city': 'Lima'})]<|/calls|>"),
        (LFM, "<|calls|>[weather(city='Lima'), climate()]<|/calls|>"),
        (LFM, "<|calls|>[weather(city='Lima', city='Rome')]<|/calls|>"),
        (LFM, "<|calls|>[weather(city=f'{1}')]<|/calls|>"),
        (LFM, "<|calls|>[weather(share=1e999)]<|/calls|>"),
        (LFM, "<|calls|>[weather(city='\\ud800')]<|/calls|>"),
        (LFM, "<|calls|>[weather(city='Lima')"),
        (LFM, "<|calls|>[weather(city='Lima'))]<|/calls|>"),
        (LFM, "<|calls|>[]<|/calls|>"),
        (LFM, "<|calls|>" + "[" * 5000),
        (LFM, "<|calls|>weather(city='Lima')<|/calls|>"),
        (OLMO, "<calls>weather(city='Lima'); import os</calls>"),
        (PYTHON, "So: [weather(city='Lima')]"),
        (LLAMA, "So: [weather(city='Lima')]"),
        (LLAMA, "[weather is fine]"),
        (PYTHON, "[weather is fine]"),
        (PYTHON, "[1, 2]"),
    ],
)
def test_what_looks_like_a_call_in_another_form_and_is_none_stays_text(
    syntax: Syntax, text: str
) -> None:
    assert read([text], syntax) == [Text(text)]
    assert read([*text[:300], text[300:]], syntax) == [Text(text)]
    read([*text[:300], text[300:]], syntax, is_constrained=True)


def test_constrained_arguments_between_marks_are_told_one_by_one() -> None:
    use = ToolUse(FUNCTIONS, "required")
    parser = call_parser(QWEN_CODER, use)
    text = in_marks(city="Lima", days="3")
    told = [
        [event.text for event in parser.add(piece) if isinstance(event, CallArguments)]
        for piece in text.splitlines(keepends=True)
    ]
    assert [texts for texts in told if texts] == [["{"], ['"city": "Lima"'], [', "days": 3'], ["}"]]
    assert parser.finish() == []


def test_arguments_are_as_the_model_wrote_them() -> None:
    text = '<tool_call>{ "arguments" : {"b":1.50,"a": "\\u0041"}, "id": 3, "name": "add" }'
    assert calls(text, HERMES) == [("add", '{"b":1.50,"a": "\\u0041"}')]
    twice = '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>'
    assert calls(twice, HERMES) == [("add", '{"a": 1}')]


def test_text_around_calls_keeps_no_white_space_beside_them() -> None:
    call = f'<tool_call>{{"name": "weather", "arguments": {LIMA}}}</tool_call>'
    assert answer(f"  Let me see.\n\n{call}\n{call}\n\n Done. \n").text == "  Let me see.Done. \n"


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (HERMES, "<tool_call> is how a call begins"),
        (HERMES, "<tool_cal"),
        (HERMES, " \n<tool_call>"),
        (HERMES, '<tool_call>\n{"name": "weather", "arguments": {"city": "Lima"}\n'),
        (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": Lima}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "weather", "arguments": {"t": NaN}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "weather", "arguments": [1]}</tool_call> so'),
        (HERMES, '<tool_call>{"name": "weather", "arguments": "Lima"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "climate", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "weather"}</tool_call>'),
        (HERMES, "<tool_call>[]</tool_call>"),
        (HERMES, f"<tool_call>[{ONE}, 1]</tool_call>"),
        (HERMES, "<tool_call>{}</tool_call>"),
        (HERMES, '<tool_call>{"a": "line\nbreak"}</tool_call>'),
        (HERMES, "<tool_call>" + "[" * 100_000),
        (HERMES, '<tool_call>{"name": "weather", "arguments": ' + '{"a":' * 50_000),
        (HERMES, ONE),
        (HERMES, "  \n "),
        (MISTRAL, "[TOOL_CALLS] weather"),
        (MISTRAL, f"[TOOL_CALLS] [{ONE}, "),
        (LLAMA, f"The call: {ONE}"),
        (LLAMA, '{"name": "Ada", "parameters": {}}'),
        (LLAMA, "{x} is a set"),
        (LLAMA, "<|python_tag|>print(1)"),
        (LLAMA, " ; {"),
        (NAMED, "[TOOL_CALLS]weather[ARGS]Lima"),
        (NAMED, "[TOOL_CALLS]weather[ARG"),
    ],
)
@pytest.mark.parametrize("is_constrained", [False, True])
def test_what_looks_like_a_call_and_is_none_stays_text(
    syntax: Syntax, text: str, is_constrained: bool
) -> None:
    if not is_constrained:
        assert read([text], syntax) == [Text(text)]
        assert read([*text[:200], text[200:]], syntax) == [Text(text)]
    else:  # what has been told cannot be taken back; nothing is told twice or raises
        read([*text[:200], text[200:]], syntax, is_constrained=True)


def test_a_call_behind_a_broken_one_is_read() -> None:
    good = f'<tool_call>{{"name": "add", "arguments": {LIMA}}}</tool_call>'
    found = answer(f'<tool_call>{{"name": "add" oh}}</tool_call> again: {good}')
    assert found.text == '<tool_call>{"name": "add" oh}</tool_call> again:'
    assert [call.arguments for call in found.calls] == [LIMA]


def test_a_single_call_leaves_out_what_comes_behind_it() -> None:
    call = f'<tool_call>{{"name": "add", "arguments": {LIMA}}}</tool_call>'
    assert calls(f"{call}{call} more", HERMES, is_single=True) == [("add", LIMA)]
    assert answer(f"{call} more", is_single=True).text == ""
    listed = f'[TOOL_CALLS] [{ONE}, {{"name": "add", "arguments": {{}}}}]'
    assert [name for name, _ in calls(listed, MISTRAL, is_single=True)] == ["weather"]
    parser = AnswerParser(None, CallParser(HERMES, NAMES, is_single=True))
    parser.add(call)
    assert parser.is_done


def test_a_constrained_calls_arguments_are_told_as_they_come() -> None:
    parser = CallParser(MISTRAL, NAMES, is_constrained=True)
    pieces = ['[TOOL_CALLS] [{"name": "add", "arguments": {"a"', ": [1", ", 2]}", "}, "]
    told = [parser.add(piece) for piece in pieces]
    assert [event.text for events in told for event in events if isinstance(event, CallArguments)]
    texts = ["".join(e.text for e in events if isinstance(e, CallArguments)) for events in told]
    assert texts == ['{"a"', ": [1", ", 2]}", ""]
    cut = parser.add('{"name": "weather", "arguments": {"ci')
    assert cut[1:] == [CallArguments(1, '{"ci')]
    assert parser.finish() == []
    assert parser.count == 2


@pytest.mark.parametrize("is_open", [False, True])
def test_reasoning_is_told_from_the_answer(is_open: bool) -> None:
    begin = "" if is_open else "<think>"
    found = answer(f"{begin}\nHm, <tool_call>?\n</think>\n\nYes </think> <think>.", is_open=is_open)
    assert found.reasoning == "Hm, <tool_call>?"
    assert found.text == "Yes </think> <think>."
    cut = answer(f"{begin}\nHm </thin", is_open=is_open)
    assert (cut.reasoning, cut.text) == ("Hm </thin", "")
    empty = answer(f"{begin}\n\n</think>\n\n Yes", is_open=is_open)
    assert (empty.reasoning, empty.text) == ("", "Yes")


def test_an_opening_mark_that_the_prompt_has_written_may_come_again() -> None:
    assert answer("<think>Hm</think>Yes", is_open=True).reasoning == "Hm"


@pytest.mark.parametrize("text", ["Yes <think>no</think>", " <thin", "</think>", "<thinking>a"])
def test_marks_that_begin_no_answer_are_text(text: str) -> None:
    assert read([*text]) == [Text(text)]
    assert read([text], None) == [Text(text)]


def test_reasoning_is_as_long_as_it_is_with_its_marks() -> None:
    parser = AnswerParser(ThoughtSplitter(is_open=False), None)
    for piece in ("<", "think>", "Hm", "\n</", "think>\n", "\n", "Yes"):
        parser.add(piece)
    assert parser.reasoning_length == len("<think>Hm\n</think>")
    begun = AnswerParser(ThoughtSplitter(is_open=False), None)
    assert begun.begin("<think>Hm") == [Reasoning("Hm")]
    assert begun.add("…</think>Yes") == [Reasoning("…"), Text("Yes")]
    assert begun.reasoning_length == len("…</think>")
    assert AnswerParser(ThoughtSplitter(is_open=False), None).reasoning_length == 0


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
        *("<think>", "</think>", "<th", "<tool", "[TOOL", " ", "\n", ";", ",", "[", "]"),
        *(
            ONE,
            '{"name": "add", "parameters": {"a": [1, {"b": "}"}]}}',
            '{"name": "add",',
            "{",
            "}",
        ),
        *("weather", "Hello", '"', "\\", LIMA, '{"name": "no", "arguments": {}}'),
        *(DEEPSEEK.opening, "\n```json\n", "\n```<｜call▁end｜>", "<｜calls▁end｜>"),
        *("<tool_call>\n<function=weather>", "<parameter=city>\nLima\n</parameter>", "</function>"),
        *("<arg_key>city</arg_key>", "<arg_value>3</arg_value>", "<|calls|>", "<|/calls|>"),
        *("<calls>", "</calls>", "[weather(city='L')]", "add(", "a=1", ")", "'"),
    ]
)


@given(
    st.lists(FRAGMENTS, max_size=8).map("".join),
    st.lists(st.integers(0, 200), max_size=12),
    st.sampled_from(sorted(SYNTAXES)),
    st.booleans(),
    st.booleans(),
)
def test_events_do_not_depend_on_how_the_text_is_cut(
    text: str, cuts: list[int], family: str, is_open: bool, is_single: bool
) -> None:
    how: Any = {"syntax": SYNTAXES[family], "is_open": is_open, "is_single": is_single}
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole = read([text], **how)
    assert read(pieces, **how) == whole
    assert read([*text], **how) == whole


@given(st.lists(FRAGMENTS, max_size=8).map("".join), st.sampled_from(sorted(SYNTAXES)))
def test_an_answer_without_calls_and_reasoning_is_its_text(text: str, family: str) -> None:
    found = read([text], SYNTAXES[family])
    if all(isinstance(event, Text) for event in found) and "</think>" not in text:
        assert "".join(event.text for event in found if isinstance(event, Text)) == text
    for event in found:
        if isinstance(event, CallArguments):
            assert isinstance(json.loads(event.text), dict)
