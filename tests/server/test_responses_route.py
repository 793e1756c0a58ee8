"""/v1/responses through OpenAI's own client; answers and events are checked against its types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from live_server import LiveServer, live_server
from openai_forms import check_answer, check_event
from pydantic import BaseModel
from scripted_model import write_scripted
from test_tools_route import SCRIPTS, TEMPLATE

from cullama import LLM, SamplingParams
from cullama.server.api.response_fields import REFUSED

RESPONSES = "/v1/responses"
INPUT = "Once upon a time"
GREEDY: Any = {"model": "tiny-chat", "input": INPUT, "temperature": 0, "max_output_tokens": 12}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
JSON = {"<|cue:json|>": '{"city": "Lima"}'}
CLOCK: Any = {"type": "function", "name": "clock", "parameters": None, "strict": False}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("models") / "scripted"
    with live_server(write_scripted(folder, TEMPLATE, {**SCRIPTS, **JSON})) as live:
        yield live


def events_of(server: LiveServer, body: Any) -> list[Any]:
    """Return a stream's events; each names itself, and they are numbered."""
    with server.http.stream("POST", RESPONSES, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        blocks = response.read().decode().split("\n\n")[:-1]
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check_event(RESPONSES, event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def cued(cue: str, **fields: Any) -> dict[str, Any]:
    tail = "<think>" if cue == "open" else ""
    variables = {"cue": f"{cue}|>{tail}"}
    given = {"input": "Rain?", "tools": [WEATHER, CLOCK], "temperature": 0, **fields}
    return {**given, "template_variables": variables}


def test_an_answer_is_that_of_the_library(server: LiveServer, local: LLM) -> None:
    response = server.openai.responses.create(**GREEDY)
    messages = [{"role": "user", "content": INPUT}]
    expected = local.chat(messages, SamplingParams(temperature=0, max_tokens=12))
    assert response.output_text == expected.text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.input_tokens == expected.prompt_tokens
    assert response.usage.output_tokens == 12
    assert response.usage.total_tokens == expected.prompt_tokens + 12
    assert response.output[0].type == "message"
    assert response.output[0].status == "incomplete"
    check_answer(RESPONSES, server.post(RESPONSES, GREEDY).json())


def test_a_stream_has_the_order_of_openais(server: LiveServer) -> None:
    whole = server.post(RESPONSES, GREEDY).json()
    events = events_of(server, GREEDY)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    text = "".join(event["delta"] for event in events if "delta" in event)
    assert text == whole["output"][0]["content"][0]["text"] == events[-4]["text"]
    last = events[-1]["response"]
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {last["output"][0]["id"]}
    for name in ("status", "incomplete_details", "temperature", "text", "tools"):
        assert last[name] == whole[name]
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert events[0]["response"]["output"] == []


class Place(BaseModel):
    city: str


def test_openais_client_streams_and_parses(scripted: LiveServer) -> None:
    given: Any = {"model": "scripted", "input": "Where?", "temperature": 0}
    cue = {"template_variables": {"cue": "json|>"}}
    with scripted.openai.responses.stream(**given, text_format=Place, extra_body=cue) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert isinstance(final.output_parsed, Place)  # the schema's, whatever the model would say
    parsed = scripted.openai.responses.parse(**given, text_format=Place, extra_body=cue)
    assert parsed.output_parsed == final.output_parsed


def test_a_format_holds_the_answer_to_it(scripted: LiveServer) -> None:
    formats: Any = [
        {"type": "json_object"},
        {"type": "json_schema", "name": "list", "schema": {"enum": [[1, 2]]}, "strict": True},
    ]
    for format in formats:
        body = {"input": "Where?", "text": {"format": format}, "max_output_tokens": 200}
        response = scripted.post(RESPONSES, {**cued("text", **body), "tools": None}).json()
        check_answer(RESPONSES, response)
        assert response["text"]["format"] == format
        if response["status"] == "completed":
            json.loads(response["output"][0]["content"][0]["text"])
    assert json.loads(response["output"][0]["content"][0]["text"]) == [1, 2]
    bad = {"type": "json_schema", "name": "a", "schema": {"type": "nothing"}}
    refused = scripted.post(RESPONSES, {**cued("text", text={"format": bad}), "tools": None})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "text.format.schema"


def test_a_conversation_is_read_as_its_messages_are(server: LiveServer, local: LLM) -> None:
    items: Any = [
        {"role": "user", "content": "Hi"},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "Bye"}]},
    ]
    body = {**GREEDY, "input": items, "instructions": "Be brief."}
    response = server.openai.responses.create(**body)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    expected = local.chat(messages, SamplingParams(temperature=0, max_tokens=12))
    assert response.output_text == expected.text
    assert response.instructions == "Be brief."
    # Its own output may be given back as it is.
    again = [*items, *[item.model_dump() for item in response.output], items[0]]
    assert server.post(RESPONSES, {**GREEDY, "input": again}).status_code == 200


def test_logprobs_are_those_of_chat_completions(server: LiveServer) -> None:
    chat = {"messages": [{"role": "user", "content": INPUT}], "temperature": 0, "max_tokens": 12}
    found = server.post("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 2})
    expected = found.json()["choices"][0]["logprobs"]["content"]
    body = {**GREEDY, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = server.post(RESPONSES, body).json()
    check_answer(RESPONSES, whole)
    part = whole["output"][0]["content"][0]
    assert [each["token"] for each in part["logprobs"]] == [each["token"] for each in expected]
    streamed = [one for event in events_of(server, body) for one in event.get("logprobs", ())]
    deltas = streamed[: len(streamed) // 2]  # the other half comes with the whole text
    assert [each["token"] for each in deltas] == [each["token"] for each in expected]


def test_a_call_is_an_item_behind_the_text_before_it(scripted: LiveServer) -> None:
    response = scripted.post(RESPONSES, cued("call")).json()
    check_answer(RESPONSES, response)
    message, call = response["output"]
    assert message["content"][0]["text"] == "Let me look that up."
    assert (call["type"], call["name"]) == ("function_call", "weather")
    assert json.loads(call["arguments"]) == {"city": "Łódź", "days": 3}
    assert response["status"] == "completed"
    events = events_of(scripted, cued("call"))
    kinds = [event["type"].removeprefix("response.") for event in events]
    begin = kinds.index("output_item.added", 4)
    assert kinds[begin - 1] == "output_item.done"
    assert kinds[begin + 1] == "function_call_arguments.delta"
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    arguments = [e["delta"] for e in events if e["type"].endswith("arguments.delta")]
    assert "".join(arguments) == call["arguments"] == events[-3]["arguments"]
    assert events[begin]["item"]["status"] == "in_progress"
    assert events[begin]["output_index"] == 1


def test_two_calls_are_two_items_unless_one_is_asked_for(scripted: LiveServer) -> None:
    both = scripted.post(RESPONSES, cued("two")).json()["output"]
    assert [item["name"] for item in both] == ["weather", "clock"]
    assert both[0]["call_id"] != both[1]["call_id"]
    first = scripted.post(RESPONSES, cued("two", parallel_tool_calls=False)).json()["output"]
    assert [item["name"] for item in first] == ["weather"]


@pytest.mark.parametrize(
    ("city", "named"),
    [({"not": {"type": "string"}}, "'not'"), ({"type": "string", "pattern": "(?=a)b"}, "regex")],
    ids=["a keyword that is refused", "a pattern that does not compile"],
)
def test_tools_whose_schemas_calls_cannot_be_held_to_are_the_error_of_tools(
    scripted: LiveServer, city: dict[str, Any], named: str
) -> None:
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    tools = [{**WEATHER, "parameters": parameters}]
    body = {"input": "Rain?", "tools": tools, "tool_choice": "required", "stream": True}
    refused = scripted.http.post(RESPONSES, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools"
    assert named in refused.json()["error"]["message"]


def test_a_call_that_is_required_comes_and_fits_its_schema(scripted: LiveServer) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Lima"]}}, "required": ["city"]}
    tool = {**WEATHER, "parameters": {**city, "additionalProperties": False}, "strict": True}
    other = {"type": "function", "name": "clock", "parameters": {"additionalProperties": False}}
    named = {"type": "function", "name": "weather"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in ("required", named, allowed):
        tools = [tool, other] if choice == allowed else [tool]
        body = cued("text", tools=tools, tool_choice=choice, parallel_tool_calls=False)
        response = scripted.post(RESPONSES, body).json()
        check_answer(RESPONSES, response)
        assert response["tool_choice"] == choice
        call = response["output"][-1]
        assert call["name"] == "weather"
        assert json.loads(call["arguments"]) == {"city": "Lima"}


def test_reasoning_is_an_item_of_its_own(scripted: LiveServer) -> None:
    response = scripted.post(RESPONSES, cued("open", tools=[])).json()
    check_answer(RESPONSES, response)
    reasoning, message = response["output"]
    assert reasoning["type"] == "reasoning"
    assert "It may be so." in reasoning["content"][0]["text"]
    assert message["content"][0]["text"] == "Yes, it may."
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    events = events_of(scripted, cued("open", tools=[]))
    thought = "".join(e["delta"] for e in events if e["type"].endswith("reasoning_text.delta"))
    assert thought == reasoning["content"][0]["text"]


def test_calls_and_results_are_given_back_as_items(scripted: LiveServer) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    items = [{"role": "user", "content": "Rain?"}, call, result]
    body = {**cued("text"), "input": items, "include": ["reasoning.encrypted_content"]}
    response = scripted.post(RESPONSES, body).json()
    assert response["output"][0]["content"][0]["text"] == "It is sunny today."
    as_chat: Any = [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    chat = scripted.post(
        "/v1/chat/completions",
        {
            "messages": as_chat,
            "tools": [
                {"type": "function", "function": {"name": "clock"}},
            ],
            "temperature": 0,
            "template_variables": {"cue": "text|>"},
        },
    ).json()
    other_tools = scripted.post(RESPONSES, {**body, "tools": [CLOCK]}).json()
    assert other_tools["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_offered_is_refused_by_name_and_null_is_nothing(
    server: LiveServer, name: str
) -> None:
    refused = server.post(RESPONSES, {**GREEDY, name: "auto"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == name
    assert "not offered" in refused.json()["error"]["message"]
    assert server.post(RESPONSES, {**GREEDY, name: None}).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input.0.type"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b"}]}, "input.0.arguments"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"model": "gpt-5"}, "model"),
        ({"stop": "a", "unheard": 1}, "unheard"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    server: LiveServer, change: Any, param: str
) -> None:
    response = server.post(RESPONSES, {**GREEDY, **change})
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["param"] == param


def test_openais_client_raises_its_own_errors(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        server.openai.responses.create(**GREEDY, previous_response_id="resp_1")


def test_a_stream_can_be_resumed_and_cancelled_by_its_id(server: LiveServer) -> None:
    body = {**GREEDY, "stream": True, "resumable": True}
    with server.http.stream("POST", RESPONSES, json=body) as response:
        text = response.read().decode()
    first = next(line for line in text.splitlines() if line.startswith("data: "))
    id = json.loads(first.removeprefix("data: "))["response"]["id"]
    again = server.http.get(f"/v1/streams/{id}").text
    assert again == text


def test_input_tokens_are_those_of_the_response(server: LiveServer) -> None:
    body = {"input": "Hi there", "instructions": "Be brief."}
    counted = server.openai.responses.input_tokens.count(**body)  # type: ignore[arg-type]
    answer = server.post(RESPONSES, {**body, "max_output_tokens": 1}).json()
    assert counted.input_tokens == answer["usage"]["input_tokens"]
    assert counted.object == "response.input_tokens"
