"""Tools and reasoning in /v1/chat/completions, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from live_server import LiveServer, live_server
from scripted_model import write_scripted

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Łódź", "days": 3}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
SCRIPTS = {
    "<|cue:text|>": "It is sunny today.",
    "<|cue:call|>": f"Let me look that up.\n{CALL}",
    "<|cue:two|>": f"{CALL}\n{OTHER}",
    "<|cue:broken|>": '<tool_call>\n{"name": "weather", "arguments": {"city": Lima}}\n</tool_call>',
    "<|cue:think|>": f"<think>\nThey ask of rain; <tool_call>?\n</think>\n\nWell. {OTHER}",
    "<|cue:open|><think>": "It may be so.\n</think>\n\nYes, it may.",
}
TEMPLATE = (
    "{% if tools %}<|user|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|end|>{% endif %}{% for m in messages %}<|user|>{{ m.role }}\n"
    "{{ m.reasoning_content ~ '</think>' if m.reasoning_content }}"
    "{{ m.content if m.content }}{% for call in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n"
    "{% if cue %}{{ '<|cue:' ~ cue }}{% endif %}{% endif %}"
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
NOTHING = {"type": "object", "additionalProperties": False}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": NOTHING}}
CITIES = {"type": "object", "properties": {"city": {"enum": ["Lima", "Łódź"]}}}
SHORT: Any = {
    "type": "function",
    "function": {
        "name": "short",
        "parameters": {**CITIES, "required": ["city"], "additionalProperties": False},
    },
}
MESSAGES: Any = [{"role": "user", "content": "Rain?"}]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models") / "scripted"
    with live_server(write_scripted(folder, TEMPLATE, SCRIPTS)) as live:
        yield live


def body(cue: str, **fields: Any) -> dict[str, Any]:
    tail = "<think>" if cue == "open" else ""
    variables = {"cue": f"{cue}|>{tail}"}
    given = {"messages": MESSAGES, "tools": [WEATHER, CLOCK], "temperature": 0, **fields}
    return {**given, "template_variables": variables}


def ask(server: LiveServer, cue: str, **fields: Any) -> Any:
    response = server.post("/v1/chat/completions", body(cue, **fields))
    assert response.status_code == 200, response.text
    return response.json()


def create(cue: str, **fields: Any) -> dict[str, Any]:
    """Return the arguments for OpenAI's client."""
    variables = body(cue).pop("template_variables")
    given = {"model": "scripted", "messages": MESSAGES, "tools": [WEATHER, CLOCK]}
    return {**given, "temperature": 0, "extra_body": {"template_variables": variables}, **fields}


def test_a_call_comes_beside_the_text_before_it(scripted: LiveServer) -> None:
    [choice] = scripted.openai.chat.completions.create(**create("call")).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look that up."
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name == "weather"
    assert call.function.arguments == '{"city": "Łódź", "days": 3}'


def test_calls_alone_have_no_content(scripted: LiveServer) -> None:
    [choice] = ask(scripted, "two")["choices"]
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["weather", "clock"]
    assert calls[0]["id"] != calls[1]["id"]


def test_deltas_have_openais_form(scripted: LiveServer) -> None:
    events = scripted.events("/v1/chat/completions", body("two"))
    choices = [choice for event in events for choice in event["choices"]]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas[-1] == {}
    assert choices[-1]["finish_reason"] == "tool_calls"
    parts = [part for delta in deltas[1:-1] for part in delta["tool_calls"]]
    for index, name in enumerate(("weather", "clock")):
        first, *rest = [part for part in parts if part["index"] == index]
        assert set(first) == {"index", "id", "type", "function"}
        assert first["function"] == {"name": name, "arguments": ""}
        assert all(set(part) == {"index", "function"} for part in rest)
        assert all(set(part["function"]) == {"arguments"} for part in rest)
        json.loads("".join(part["function"]["arguments"] for part in rest))


@pytest.mark.parametrize("cue", ["call", "two", "text", "broken", "think", "open"])
def test_a_stream_adds_up_to_the_answer(scripted: LiveServer, cue: str) -> None:
    ask(scripted, cue)  # so that both find the prompt in the cache
    whole = ask(scripted, cue)
    message = whole["choices"][0]["message"]
    texts = {"content": "", "reasoning_content": "", "reasoning": ""}
    calls: dict[int, dict[str, str]] = {}
    options = {"stream_options": {"include_usage": True}}
    events = scripted.events("/v1/chat/completions", body(cue, **options))
    for choice in (choice for event in events for choice in event["choices"]):
        for name in texts:
            texts[name] += choice["delta"].get(name) or ""
        for part in choice["delta"].get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
            for name, text in part["function"].items():
                call[name] += text
    assert texts["content"] == (message["content"] or "")
    assert texts["reasoning"] == texts["reasoning_content"] == message.get("reasoning", "")
    expected = [call["function"] for call in message.get("tool_calls", [])]
    assert [calls[index] for index in sorted(calls)] == expected
    assert choice["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert events[-1]["usage"] == whole["usage"]


def test_openais_stream_helper_assembles_calls(scripted: LiveServer) -> None:
    with scripted.openai.chat.completions.stream(**create("call")) as stream:
        kinds = [event.type for event in stream]
        [choice] = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    assert choice.message.content == "Let me look that up."
    assert choice.message.tool_calls is not None
    arguments = choice.message.tool_calls[0].function.arguments
    assert json.loads(arguments) == {"city": "Łódź", "days": 3}


def test_a_whole_loop_with_openais_async_client(scripted: LiveServer) -> None:
    async def main() -> str | None:
        async with scripted.async_openai() as client:
            messages = list(MESSAGES)
            first = await client.chat.completions.create(**create("two", messages=messages))
            messages.append(first.choices[0].message.model_dump())
            for call in first.choices[0].message.tool_calls or ():
                result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
                messages.append(result)
            last = await client.chat.completions.create(**create("text", messages=messages))
            return last.choices[0].message.content

    assert asyncio.run(main()) == "It is sunny today."


def test_text_that_looks_like_a_call_is_the_content(scripted: LiveServer) -> None:
    [choice] = ask(scripted, "broken")["choices"]
    assert choice["message"]["content"] == SCRIPTS["<|cue:broken|>"]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_a_call_that_is_cut_off_is_text(scripted: LiveServer) -> None:
    [choice] = ask(scripted, "two", max_tokens=6)["choices"]
    assert choice["finish_reason"] == "length"
    assert SCRIPTS["<|cue:two|>"].startswith(choice["message"]["content"])
    assert choice["message"]["content"].startswith("<tool_call>")


def test_calls_of_functions_that_are_not_offered_are_text(scripted: LiveServer) -> None:
    [choice] = ask(scripted, "two", tools=[CLOCK])["choices"]
    assert choice["message"]["content"] == CALL
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["clock"]


def test_one_call_at_a_time_ends_the_answer(scripted: LiveServer) -> None:
    full = ask(scripted, "two")["usage"]["completion_tokens"]
    one = ask(scripted, "two", parallel_tool_calls=False)
    assert [call["function"]["name"] for call in one["choices"][0]["message"]["tool_calls"]] == [
        "weather"
    ]
    assert one["choices"][0]["finish_reason"] == "tool_calls"
    assert one["usage"]["completion_tokens"] <= full


@pytest.mark.parametrize("fields", [{"tools": None}, {"tools": []}, {"tool_choice": "none"}])
def test_without_tools_an_answer_is_text(scripted: LiveServer, fields: dict[str, Any]) -> None:
    [choice] = ask(scripted, "two", **fields)["choices"]
    assert choice["message"]["content"] == SCRIPTS["<|cue:two|>"]
    assert choice["finish_reason"] == "stop"


def test_several_choices_have_calls_of_their_own(scripted: LiveServer) -> None:
    choices = ask(scripted, "call", n=2)["choices"]
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in choices}
    assert len(ids) == 2


def test_tools_reach_the_template(scripted: LiveServer) -> None:
    without = ask(scripted, "text", tools=None)["usage"]["prompt_tokens"]
    assert ask(scripted, "text", tool_choice="none")["usage"]["prompt_tokens"] == without
    assert ask(scripted, "text")["usage"]["prompt_tokens"] > without + 20


@pytest.mark.parametrize(("cue", "expected"), [("think", "Well."), ("open", "Yes, it may.")])
def test_reasoning_has_a_field_of_its_own(scripted: LiveServer, cue: str, expected: str) -> None:
    answer = ask(scripted, cue, return_token_ids=True)
    message, ids = answer["choices"][0]["message"], answer["choices"][0]["token_ids"]
    thoughts = {"think": "They ask of rain; <tool_call>?", "open": "It may be so."}
    assert message["reasoning_content"] == message["reasoning"] == thoughts[cue]
    assert message["content"] == expected
    decode = scripted.service.llm.tokenizer.decode
    count = next(n for n in range(len(ids)) if "</think>" in decode(ids[:n]))
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == count
    assert ask(scripted, "text")["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_reasoning_that_is_given_back_reaches_the_template(scripted: LiveServer) -> None:
    for name in ("reasoning", "reasoning_content"):
        answer = {"role": "assistant", "content": "Yes.", name: "Hm, hm, hm. " * 9}
        asked = [*MESSAGES, answer, *MESSAGES]
        long = ask(scripted, "text", messages=asked)["usage"]["prompt_tokens"]
        del answer[name]
        assert long > ask(scripted, "text", messages=asked)["usage"]["prompt_tokens"] + 9


def test_a_continued_answer_goes_on_with_its_reasoning(scripted: LiveServer) -> None:
    ids = ask(scripted, "think", return_token_ids=True)["choices"][0]["token_ids"]
    rest = ask(scripted, "think", answer_token_ids=ids[:4])["choices"][0]["message"]
    whole = ask(scripted, "think", answer_token_ids=ids[:4], echo=True)["choices"][0]["message"]
    assert whole["reasoning"] == "They ask of rain; <tool_call>?"
    assert whole["reasoning"].endswith(rest["reasoning"])
    assert rest["content"] == whole["content"] == "Well."


def test_logprobs_of_a_streamed_call_are_all_told(scripted: LiveServer) -> None:
    whole = ask(scripted, "two", logprobs=True)["choices"][0]["logprobs"]["content"]
    events = scripted.events("/v1/chat/completions", body("two", logprobs=True))
    choices = [choice for event in events for choice in event["choices"]]
    told = [each for it in choices if it["logprobs"] for each in it["logprobs"]["content"]]
    assert told == whole


REQUIRED: Any = {"tool_choice": "required", "temperature": 1, "max_tokens": 1500}


@pytest.mark.parametrize("seed", range(4))
def test_required_calls_keep_to_their_schemas(scripted: LiveServer, seed: int) -> None:
    [choice] = ask(scripted, "text", tools=[SHORT, CLOCK], seed=seed, **REQUIRED)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    for call in choice["message"]["tool_calls"]:
        assert call["function"]["name"] in ("short", "clock")
        if call["function"]["name"] == "short":
            assert json.loads(call["function"]["arguments"])["city"] in ("Lima", "Łódź")


def test_a_named_call_is_the_one_of_its_name(scripted: LiveServer) -> None:
    named = {"type": "function", "function": {"name": "short"}}
    given = {**REQUIRED, "tool_choice": named}
    whole = ask(scripted, "two", tools=[CLOCK, SHORT], seed=2, **given)["choices"][0]
    [call] = whole["message"]["tool_calls"]
    assert call["function"]["name"] == "short"
    fields = {"tools": [CLOCK, SHORT], "seed": 2, **given}
    events = scripted.events("/v1/chat/completions", body("two", **fields))
    parts = [
        part["function"]["arguments"]
        for event in events
        for choice in event["choices"]
        for part in choice["delta"].get("tool_calls", ())
    ]
    assert "".join(parts) == call["function"]["arguments"]
    assert parts[0] == ""


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_called_and_the_model_is_told_of_all(scripted: LiveServer) -> None:
    tools = [CLOCK, SHORT]
    free = ask(scripted, "two", tools=tools)["usage"]["prompt_tokens"]
    given = {**REQUIRED, "tools": tools, "tool_choice": allowed("required", "short")}
    answer = ask(scripted, "two", seed=2, **given)
    assert answer["usage"]["prompt_tokens"] == free
    called = answer["choices"][0]["message"]["tool_calls"]
    assert {call["function"]["name"] for call in called} == {"short"}
    given["tool_choice"] = allowed("auto", "short")
    for seed in range(3):  # the model would call others: weather and clock
        message = ask(scripted, "two", seed=seed, **given)["choices"][0]["message"]
        assert {call["function"]["name"] for call in message.get("tool_calls", ())} <= {"short"}
        assert not (message["content"] or "").startswith('<tool_call>\n{"name": "clock"')
    assert ask(scripted, "text", tools=tools, tool_choice=given["tool_choice"])


def test_a_required_call_comes_behind_reasoning(scripted: LiveServer) -> None:
    [choice] = ask(scripted, "open", tools=[SHORT], **{**REQUIRED, "temperature": 0})["choices"]
    assert choice["message"]["reasoning"] == "It may be so."
    assert {call["function"]["name"] for call in choice["message"]["tool_calls"]} == {"short"}


def test_a_strict_function_is_called_by_its_schema_or_not_at_all(scripted: LiveServer) -> None:
    function = {**SHORT["function"], "name": "weather", "strict": True}
    fields = {"tools": [{"type": "function", "function": function}], "parallel_tool_calls": False}
    [choice] = ask(scripted, "call", **fields)["choices"]
    assert choice["message"]["content"] == "Let me look that up."
    [call] = choice["message"]["tool_calls"]  # the model would have said the days, too
    assert json.loads(call["function"]["arguments"])["city"] in ("Lima", "Łódź")
    assert choice["finish_reason"] == "tool_calls"
    [choice] = ask(scripted, "text", **fields)["choices"]
    assert choice["message"]["content"] == SCRIPTS["<|cue:text|>"]


def test_schemas_that_calls_cannot_be_held_to_are_refused_by_name(scripted: LiveServer) -> None:
    function: Any = {"name": "f", "parameters": {"type": "object", "not": {}}, "strict": True}
    tools = [{"type": "function", "function": function}]
    response = scripted.post("/v1/chat/completions", body("text", tools=tools))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert "the parameters of f, at /not" in response.json()["error"]["message"]
    function["parameters"] = {"type": "object", "properties": {"a": {"pattern": "("}}}
    response = scripted.post("/v1/chat/completions", body("text", tools=tools))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert "calls cannot be held to the schemas" in response.json()["error"]["message"]
    del function["strict"]
    assert ask(scripted, "text", tools=tools)


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"tools": [WEATHER, WEATHER]}, 400, "tools", "two tools have the name 'weather'"),
        ({"tools": [{"type": "custom"}]}, 400, "tools", "custom tools are not offered, since"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools", "'web_search' do not run here"),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function", "missing"),
        ({"tools": [CLOCK] * 129}, 400, "tools", "at most 128"),
        ({"tool_choice": "any"}, 400, "tool_choice", "required"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "rain"}}},
            400,
            "tool_choice",
            "expected one of the tools: weather, clock",
        ),
        ({"tools": None, "tool_choice": "required"}, 400, "tool_choice", "there are none"),
        (
            {"tools": None, "tool_choice": allowed("auto", "f")},
            400,
            "tool_choice",
            "there are none",
        ),
        ({"tool_choice": allowed("auto", "clock", "rain")}, 400, "tool_choice", "names 'rain'"),
        ({"tool_choice": allowed("auto")}, 400, "tool_choice.allowed_tools.tools", "at least 1"),
        (
            {"tool_choice": allowed("none", "clock")},
            400,
            "tool_choice.allowed_tools.mode",
            "'auto'",
        ),
        (
            {"tools": None, "parallel_tool_calls": True},
            400,
            "parallel_tool_calls",
            "only for tools",
        ),
        ({"function_call": "auto"}, 400, "function_call", "old form of tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    scripted: LiveServer, fields: Any, status: int, param: str, words: str
) -> None:
    response = scripted.post("/v1/chat/completions", body("text", **fields))
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("function", "where"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "a", "description": "x" * 20_000}, "description"),
        ({"name": "a", "parameters": {"x": "y" * 70_000}}, "parameters"),
        ({"name": "a", "parameters": []}, "parameters"),
        ({"name": "a", "strict": "yes"}, "strict"),
        ({"name": "a", "returns": {}}, "returns"),
    ],
)
def test_functions_have_limits(scripted: LiveServer, function: Any, where: str) -> None:
    tools = [{"type": "function", "function": function}]
    with pytest.raises(openai.BadRequestError) as caught:
        scripted.openai.chat.completions.create(**create("text", tools=tools))
    assert caught.value.param == f"tools.0.function.{where}"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "name": "f", "content": "3"}, "messages.0.role"),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            "messages.0.function_call",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "messages.0.tool_calls",
        ),
    ],
)
def test_old_forms_of_calls_are_refused_by_name(
    scripted: LiveServer, message: Any, param: str
) -> None:
    response = scripted.post("/v1/chat/completions", body("text", messages=[message, *MESSAGES]))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_templates_are_applied_to_tools(scripted: LiveServer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    messages = [*MESSAGES, answer, {"role": "tool", "tool_call_id": "1", "content": "<|end|>12"}]
    given = {"messages": messages, "tools": [CLOCK]}
    shown = scripted.post("/apply-template", given).json()
    assert '"name": "clock"' in shown["prompt"]
    assert '<tool_call>\n{"name": "clock", "arguments": {}}' in shown["prompt"]
    plain = {**given, "messages": [*messages[:-1], {**messages[-1], "content": "12"}]}
    ends = scripted.post("/apply-template", plain).json()["tokens"].count(1)
    assert shown["tokens"].count(1) == ends  # the one that a result spells is text
    assert "<|end|>12" in shown["prompt"]


def test_a_model_whose_template_has_no_tools_says_so(server: LiveServer) -> None:
    given = {"messages": MESSAGES, "tools": [CLOCK]}
    response = server.post("/v1/chat/completions", given)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert "as JSON, between marks, or as Python" in response.json()["error"]["message"]
    allowed = {**given, "tool_choice": "none", "max_tokens": 2}
    assert server.post("/v1/chat/completions", allowed).status_code == 200
