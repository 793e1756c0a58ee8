"""The body of /v1/responses: its fields, and its input items as messages for a chat template.

Nothing is kept here between requests, and no tool runs here: what asks for either is refused by
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from ...chat.tools.functions import ToolUse
from ...sampling.params import MAX_LOGPROBS
from ..http.errors import ApiError
from .fields import MAX_INT32, Fields, SamplingFields, Text
from .tools import (
    MAX_TOOLS,
    ChosenTools,
    FunctionFields,
    NamedFunction,
    check_tool_type,
    template_messages,
    tool_use,
)

# Fields of OpenAI's that ask for something that is not here: the reason, behind their names.
REFUSED = {
    "access_programs": "there are no access programs here",
    "background_options": "nothing runs in the background",
    "context_management": "nothing is kept between requests; send what the model shall read",
    "conversation": "conversations are not kept; send their items as input",
    "image": "this model writes text",
    "moderation": "there is no moderation model here",
    "previous_response_id": "responses are not kept; send their output items as input",
    "prompt": "prompts are not kept; send instructions and input",
    "prompt_cache_options": "the prefix cache works by itself",
    "reasoning": "how a model reasons is its template's: template_variables may say more",
}
# Of chat completions and completions, which this route does not have.
_FOREIGN = {
    "max_tokens": "give max_output_tokens",
    "response_format": "give text.format",
    "n": "a response is one answer",
    "return_token_ids": "token ids are in chat completions",
    "answer_token_ids": "answers go on in chat completions",
    "return_progress": "prompt progress is in chat completions",
}
_TEXT_PARTS = {"input_text", "output_text", "text"}
# Entries of items that say nothing to a model.
_NO_OPS = {"type", "id", "status", "phase", "annotations", "logprobs", "encrypted_content"}


class TextFormat(Fields):
    """`text.format`: of type text, json_object or json_schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, Field(max_length=1024)] | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Fields):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None  # no-op


class FunctionToolFields(FunctionFields):
    type: Literal["function"]


class NamedToolChoice(NamedFunction):
    type: Literal["function"]


class AllowedToolsChoice(Fields):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class ResponseFields(SamplingFields):
    """The body of /v1/responses; `max_output_tokens` takes the place of `max_tokens`."""

    input: Text | Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    text: TextConfig | None = None
    tools: Annotated[list[FunctionToolFields], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolsChoice | None
    ) = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    # No-ops
    store: bool | None = None
    metadata: dict[str, str] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None  # of tools that run here: none
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    # Ours
    template_variables: dict[str, JsonValue] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, body: Any) -> Any:
        """Refuse what other routes or OpenAI's servers have; null is as good as left out."""
        if not isinstance(body, dict):
            return body
        for name, reason in {**REFUSED, **_FOREIGN}.items():
            if body.get(name) is not None and not _is_empty(body[name]):
                raise ApiError(400, f"{name} is not offered: {reason}", name)
        tools = body.get("tools")
        for index, tool in enumerate(tools if isinstance(tools, list) else ()):
            check_tool_type(tool, f"tools.{index}.type")
        return {name: value for name, value in body.items() if name not in {*REFUSED, *_FOREIGN}}

    @model_validator(mode="after")
    def _check_format(self) -> ResponseFields:
        form = self.text.format if self.text else None
        if form is not None and (form.type == "json_schema") != (form.schema_ is not None):
            words = "a schema comes with the type json_schema, and with it alone"
            raise ApiError(400, words, "text.format.schema")
        return self

    @property
    def has_logprobs(self) -> bool:
        asked = "message.output_text.logprobs" in (self.include or ())
        return asked or self.top_logprobs is not None

    def tool_use(self) -> ToolUse | None:
        """Return which functions may be called. Raises ApiError: as `tools.tool_use`."""
        choice = self.tool_choice
        if isinstance(choice, NamedToolChoice):
            chosen = ChosenTools("required", choice.name)
        elif isinstance(choice, AllowedToolsChoice):
            chosen = ChosenTools(choice.mode, None, frozenset(it.name for it in choice.tools))
        else:
            chosen = ChosenTools(choice)
        functions = [tool.tool() for tool in self.tools or ()]
        use = tool_use(functions, chosen, self.parallel_tool_calls)
        form = self.text.format if self.text else None
        fields = ["text.format"] if form is not None and form.type != "text" else []
        fields += self.form()
        if use is not None and fields:
            words = f"{fields[0]} gives the answer a form in which no tool is called"
            words += "; leave out one of them, or set tool_choice: none"
            raise ApiError(400, words, fields[0])
        return use

    def sampling(self) -> dict[str, Any]:
        values = super().sampling()
        if self.max_output_tokens is not None:
            values["max_tokens"] = self.max_output_tokens
        if self.has_logprobs:
            values["logprobs"] = self.top_logprobs or 0
        form = self.text.format if self.text else None
        if form is not None and form.type == "json_schema":
            values["json_schema"] = form.schema_
        elif form is not None and form.type == "json_object":
            values["json_object"] = True
        return values

    @property
    def is_continued(self) -> bool:
        return False

    def conversation(self) -> list[dict[str, Any]]:
        """Return instructions and input as messages. Raises ApiError: an item that is none."""
        messages: list[dict[str, Any]] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for index, item in enumerate(self.input):
            _add_item(messages, item, f"input.{index}")
        return template_messages(messages)


def _is_empty(value: Any) -> bool:
    """Whether an object says nothing, such as {"effort": null}."""
    return isinstance(value, dict) and all(each is None for each in value.values())


def _add_item(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """Add an input item; calls, and the reasoning before an answer, belong to one message."""
    kind = item.get("type", "message")
    said = {name: value for name, value in item.items() if name not in _NO_OPS}
    if kind == "message":
        _check_entries(said, {"role", "content"}, where)
        content = _text(said["content"], f"{where}.content")
        message = {"role": said["role"], "content": content}
        if said["role"] == "assistant" and _is_open(messages):
            messages[-1]["content"] = content
        else:
            messages.append(message)
    elif kind == "function_call":
        _check_entries(said, {"call_id", "name", "arguments"}, where)
        function = {"name": said["name"], "arguments": said["arguments"]}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": said["call_id"], "type": "function", "function": function})
    elif kind == "function_call_output":
        _check_entries(said, {"call_id", "output"}, where)
        content = _text(said["output"], f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": said["call_id"], "content": content})
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        thoughts = [part.get("text") for part in parts if isinstance(part, dict)]
        text = "\n".join(filter(None, map(str, thoughts)))
        messages.append({"role": "assistant", "content": None, "reasoning_content": text})
    else:
        words = "message, function_call, function_call_output or reasoning"
        raise ApiError(400, f"found {kind!r:.80}, expected {words}", f"{where}.type")


def _is_open(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is reasoning without the answer that belongs to it."""
    return (
        bool(messages)
        and set(messages[-1]) == {"role", "content", "reasoning_content"}
        and (messages[-1]["content"] is None)
    )


def _check_entries(item: Mapping[str, Any], names: set[str], where: str) -> None:
    """Raises ApiError: an entry that is missing, unknown, or no text."""
    for name in names - item.keys():
        raise ApiError(400, f"{name} is missing", f"{where}.{name}")
    for name in item.keys() - names:
        raise ApiError(400, f"unknown field {name[:60]!r}", f"{where}.{name[:60]}")
    for name in names - {"content", "output"}:
        if not isinstance(item[name], str):
            found = json.dumps(item[name])
            raise ApiError(400, f"found {found:.60}, expected a text", f"{where}.{name}")


def _text(content: Any, where: str) -> str | list[dict[str, str]]:
    """Return a content, a text or a list of parts, in the form of chat completions."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ApiError(400, f"found {content!r:.60}, expected a text or parts of one", where)
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            words = "input_text or output_text, with a text: the model reads nothing else"
            raise ApiError(400, f"found a part of type {kind!r:.60}, expected {words}", where)
        parts.append({"type": "text", "text": part["text"]})
    return parts[0]["text"] if len(parts) == 1 else parts
