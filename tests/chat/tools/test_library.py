"""Calls and reasoning on completions of `LLM.chat`, in the form of each family."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_model import write_scripted

from cullama import LLM, SamplingParams
from cullama.errors import UsageError

MESSAGES = [{"role": "user", "content": "Rain?"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Lima", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]
GREEDY = SamplingParams(temperature=0, seed=1)
SCRIPTS = {
    "<|cue:mistral|>": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Lima"}}]',
    "<|cue:llama|>": '{"name": "weather", "parameters": {"city": "Rome"}}',
    "<|cue:smollm|>": 'So:\n<tool_call>[\n{"name": "weather", "arguments": {"city": "Rome"}}\n]'
    "</tool_call>",
    "<|cue:coder|>": "<tool_call>\n<function=weather>\n<parameter=city>\nLima\n</parameter>\n"
    "</function>\n</tool_call>",
    "<|cue:lfm|>": "<|calls|>[weather(city='Rome')]<|/calls|>",
    "<|cue:seek|>": '<|open|><|call|>function<|sep|>weather\n```json\n{"city": "Rome"}\n```'
    "<|/call|><|/open|>",
    "<|cue:thought|>": "<think>\nRain, hm.\n</think>\nNo rain.",
}
BODY = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|user|>"
    "{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}<|end|>"
    "{% endfor %}{{ '<|cue:' ~ cue if cue }}"
)
CALLS = {
    "mistral": '[TOOL_CALLS] [{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}]",
    "llama": '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}',
    "coder": "{{ '\n<tool_call>\n<function=' ~ c.function.name ~ '>\n' }}"
    "{% for k, v in c.function.arguments | items %}"
    "{{ '<parameter=' ~ k ~ '>\n' ~ v ~ '\n</parameter>\n' }}{% endfor %}"
    "{{ '</function>\n</tool_call>' }}",
    "lfm": "{{ '<|calls|>[' if loop.first else ', ' }}{{ c.function.name }}("
    "{% for k, v in c.function.arguments | items %}{{ ', ' if not loop.first }}{{ k }}="
    "{{ v | tojson }}{% endfor %}){{ ']<|/calls|>' if loop.last }}",
    "seek": "{{ '<|open|>' if loop.first else '\n' }}<|call|>function<|sep|>"
    "{{ c.function.name ~ '\n```json\n' ~ (c.function.arguments | tojson) ~ '\n```' }}"
    "<|/call|>{{ '<|/open|>' if loop.last }}",
    "smollm": "<tool_call>[{{ c.function | tojson }}]</tool_call>",
}


CONTROL = [
    "[TOOL_CALLS]",
    "<|open|>",
    "<|/open|>",
    "<|calls|>",
    "<|/calls|>",
    "<|call|>",
    "<|/call|>",
    "<|sep|>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "scripted"
    return write_scripted(path, BODY, SCRIPTS, control=CONTROL)


@pytest.fixture(scope="module", params=sorted(CALLS))
def family(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, LLM]]:
    template = folder.parent / f"{request.param}.jinja"
    template.write_text(BODY.replace("CALL", CALLS[request.param]), encoding="utf-8")
    options: Any = {"backend": "cpu:numpy", "threads": 1, "chat_template": template}
    with LLM(folder, **options) as llm:
        yield request.param, llm


@pytest.fixture(scope="module")
def thinking(folder: Path) -> Iterator[LLM]:
    template = folder.parent / "thinking.jinja"
    template.write_text(BODY.replace("CALL", "</think>"), encoding="utf-8")
    with LLM(folder, backend="cpu:numpy", threads=1, chat_template=template) as llm:
        yield llm


def test_a_completion_has_the_calls_of_its_message(family: tuple[str, LLM]) -> None:
    name, llm = family
    given: Any = {"tools": TOOLS, "template_variables": {"cue": f"{name}|>"}}
    answer = llm.chat(MESSAGES, GREEDY, **given)
    assert answer.text == SCRIPTS[f"<|cue:{name}|>"]
    assert answer.message is not None
    assert answer.message["content"] == ("So:" if name == "smollm" else None)
    [call] = answer.message["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Lima", "Rome")
    again = asyncio.run(llm.achat([MESSAGES, MESSAGES], GREEDY, **given))
    for one in again:
        assert one == answer
        assert one.message is not None
        assert one.message["tool_calls"][0]["function"] == call["function"]
    result = {"role": "tool", "content": "sunny", "tool_call_id": call["id"]}
    assert llm.chat([*MESSAGES, answer.message, result], GREEDY, **given) is not None


def test_strict_functions_are_held_to_their_schemas(family: tuple[str, LLM]) -> None:
    name, llm = family
    other = {**WEATHER["parameters"], "properties": {"city": {"enum": ["Oslo"]}}}
    strict = [{**TOOLS[0], "function": {**WEATHER, "strict": True, "parameters": other}}]
    given: Any = {"tools": strict, "template_variables": {"cue": f"{name}|>"}}
    answer = llm.chat(MESSAGES, GREEDY.replace(max_tokens=1000), **given)
    assert answer.message is not None
    arguments = answer.message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"city": "Oslo"}
    with llm.stream_chat(MESSAGES, GREEDY.replace(max_tokens=1000), **given) as stream:
        assert "".join(stream) == answer.text
    with pytest.raises(UsageError, match="regex and grammar were given"):
        llm.chat(MESSAGES, GREEDY.replace(regex="a"), **given)


def test_a_required_call_is_the_whole_answer(family: tuple[str, LLM]) -> None:
    _, llm = family
    clock = {"name": "clock", "parameters": {"type": "object", "additionalProperties": False}}
    given: Any = {"tools": [*TOOLS, {"type": "function", "function": clock}]}
    named = {"type": "function", "function": {"name": "clock"}}
    params = SamplingParams(seed=3, max_tokens=1500)
    choices: list[Any] = ["required", named]
    for choice in choices:
        answer = llm.chat(MESSAGES, params, tool_choice=choice, **given)
        assert answer.message is not None
        assert answer.message["content"] is None
        called = {call["function"]["name"] for call in answer.message["tool_calls"]}
        assert called <= ({"clock"} if choice == named else {"clock", "weather"})
    entry = {"type": "function", "function": {"name": "clock"}}
    some: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [entry]}}
    message = llm.chat(MESSAGES, params, tool_choice=some, **given).message
    assert message is not None
    assert {call["function"]["name"] for call in message["tool_calls"]} == {"clock"}
    with llm.stream_chat(MESSAGES, params, tool_choice=named, **given) as stream:
        assert "".join(stream) == answer.text
    free = llm.chat(MESSAGES, GREEDY.replace(max_tokens=3), tool_choice="none", **given)
    assert free.prompt_tokens == llm.chat(MESSAGES, GREEDY.replace(max_tokens=3)).prompt_tokens
    wrongs: list[Any] = [
        {"allowed_tools": {"mode": "auto", "tools": []}},
        "any",
        {"function": {"name": "rain"}},
        "clock",
    ]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="expected 'auto', 'none', 'required', one of"):
            llm.chat(MESSAGES, params, tool_choice=wrong, **given)
    with pytest.raises(UsageError, match="there are no tools"):
        llm.chat(MESSAGES, params, tool_choice="required")


def test_strict_functions_of_a_model_are_those_of_its_sessions(folder: Path) -> None:
    template = folder.parent / "session.jinja"
    template.write_text(BODY.replace("CALL", CALLS["llama"]), encoding="utf-8")
    function = {"name": "clock", "strict": True, "parameters": {"additionalProperties": False}}
    variables = {"tools": [{"type": "function", "function": function}], "cue": "llama|>"}
    options: Any = {"chat_template": template, "template_variables": variables}
    with LLM(folder, backend="cpu:numpy", threads=1, **options) as llm:
        answer = llm.session().send("Rain?", GREEDY)
        assert answer.text == '{"name": "clock", "parameters": {}}'
        assert llm.chat(MESSAGES, GREEDY).text == answer.text


def test_a_stream_has_the_calls_of_its_message(family: tuple[str, LLM]) -> None:
    name, llm = family
    given: Any = {"tools": TOOLS, "template_variables": {"cue": f"{name}|>"}}
    expected = llm.chat(MESSAGES, GREEDY, **given)
    with llm.stream_chat(MESSAGES, GREEDY, **given) as stream:
        assert "".join(stream) == expected.text
        message = stream.completion.message
    assert message is not None
    assert expected.message is not None
    assert message["content"] == expected.message["content"]
    [call], [other] = message["tool_calls"], expected.message["tool_calls"]
    assert call["function"] == other["function"]


@pytest.mark.parametrize("name", ["mistral", "coder"])
def test_a_session_keeps_calls_and_takes_their_results(folder: Path, name: str) -> None:
    template = folder.parent / f"session-{name}.jinja"
    template.write_text(BODY.replace("CALL", CALLS[name]), encoding="utf-8")
    variables = {"cue": f"{name}|>"}
    options: Any = {"chat_template": template, "template_variables": variables}
    with LLM(folder, backend="cpu:numpy", threads=1, **options) as llm:
        session = llm.session(params=GREEDY, tools=TOOLS)
        answer = session.send("Rain?")
        assert answer.message is not None
        [call] = answer.message["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert session.messages[-1] == answer.message
        with pytest.raises(UsageError, match="expected a list of 1, one for each call"):
            session.send_results(["sunny", "wet"])
        twin = session.fork()
        again = session.send_results(["sunny"])
        assert session.messages[-2]["tool_call_id"] == call["id"]
        assert again.prompt_tokens > answer.prompt_tokens
        chat = llm.chat(session.messages[:-1], GREEDY, tools=TOOLS)
        assert (chat.prompt_tokens, chat.text) == (again.prompt_tokens, again.text)
        assert twin.send_results(["sunny"]).text == again.text
        assert session.undo()[0]["content"] == "Rain?"
        plain = llm.session(params=GREEDY).send("Rain?")
        assert plain.message == {"role": "assistant", "content": plain.text}


def test_an_answer_without_calls_is_a_message_of_its_text(family: tuple[str, LLM]) -> None:
    name, llm = family
    given: Any = {"template_variables": {"cue": f"{name}|>"}}
    answer = llm.chat(MESSAGES, GREEDY, **given)
    assert answer.message == {"role": "assistant", "content": answer.text}
    assert llm.generate("Rain", GREEDY.replace(max_tokens=1)).message is None


def test_reasoning_is_apart_from_the_content_of_the_message(thinking: LLM) -> None:
    given: Any = {"template_variables": {"cue": "thought|>"}}
    answer = thinking.chat(MESSAGES, GREEDY, **given)
    assert answer.text == SCRIPTS["<|cue:thought|>"]
    expected = {"role": "assistant", "content": "No rain.", "reasoning_content": "Rain, hm."}
    assert answer.message == expected
    begun = {"role": "assistant", "content": "<think>It"}
    rest = thinking.chat(
        [*MESSAGES, begun], GREEDY.replace(max_tokens=1), continue_final_message=True
    )
    assert rest.message is not None
    assert rest.message["reasoning_content"] == f"It{rest.text}".rstrip()
