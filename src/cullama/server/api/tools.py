"""Tools in the words of OpenAI's chat completions: in requests, in messages, and in answers.

What they mean is chat/tools; the fields' limits are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from ...chat.tools.events import (
    CallArguments,
    CallBegun,
    Event,
    ParsedAnswer,
    Reasoning,
    Text,
    ToolCall,
    new_call_id,
)
from ...chat.tools.functions import FunctionTool, ToolUse
from ..http.errors import ApiError

MAX_TOOLS = 128
MAX_DESCRIPTION = 16 << 10  # characters
MAX_PARAMETERS = 64 << 10  # characters, as JSON

Name = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FunctionFields(_Strict):
    """A function, as chat completions and responses have it."""

    name: Name
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _check_size(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None and len(json.dumps(value, ensure_ascii=False)) > MAX_PARAMETERS:
            raise ValueError(f"expected at most {MAX_PARAMETERS:,} characters of JSON")
        return value

    def tool(self) -> FunctionTool:
        return FunctionTool(self.name, self.description, self.parameters, bool(self.strict))


class ToolFields(_Strict):
    type: Literal["function"]
    function: FunctionFields

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, tool: Any) -> Any:
        check_tool_type(tool, "tools")
        return tool


def check_tool_type(tool: Any, where: str) -> None:
    """Raises ApiError: a tool of OpenAI's that is no function."""
    kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
    if kind == "custom":
        words = "custom tools are not offered, since models write the input of a call as JSON, or "
        words += "as the value of a parameter; give a function with one text as its parameter"
        raise ApiError(400, words, where)
    if kind != "function":
        words = f"tools of the type {kind!r:.60} do not run here, expected function"
        raise ApiError(400, words, where)


class NamedFunction(_Strict):
    name: Name


class NamedChoice(_Strict):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(_Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(_Strict):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


@dataclass(frozen=True)
class ChosenTools:
    """What a request says of its tools.

    Attributes:
        mode: "none", "auto" or "required"; None where it says nothing.
        named: the function that has to be called.
        allowed: the functions that may be called, of those that the model is told of.
    """

    mode: str | None = None
    named: str | None = None
    allowed: frozenset[str] | None = None

    @classmethod
    def of(cls, choice: str | NamedChoice | AllowedChoice | None) -> ChosenTools:
        if isinstance(choice, NamedChoice):
            return cls("required", choice.function.name)
        if isinstance(choice, AllowedChoice):
            names = frozenset(tool.function.name for tool in choice.allowed_tools.tools)
            return cls(choice.allowed_tools.mode, None, names)
        return cls(choice)


def tool_use(
    functions: Sequence[FunctionTool], chosen: ChosenTools, is_parallel: bool | None
) -> ToolUse | None:
    """Return which functions may be called; None for none of them.

    Raises:
        ApiError: a choice without tools, or of one that is not among them; two of one name.
    """
    mode, named, allowed = chosen.mode, chosen.named, chosen.allowed
    if not functions:
        asked = allowed or (mode not in (None, "none", "auto"))
        for name, is_asked in (("tool_choice", asked), ("parallel_tool_calls", is_parallel)):
            if is_asked:
                raise ApiError(400, f"{name} is only for tools, and there are none", name)
        return None
    names = [function.name for function in functions]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ApiError(400, f"two tools have the name {repeated!r}", "tools")
    for name in sorted({*([named] if named else allowed or ())} - {*names}):
        words = f"tool_choice names {name!r}, expected one of the tools: {', '.join(names)}"
        raise ApiError(400, words[:300], "tool_choice")
    if mode == "none":
        return None
    several = is_parallel is not False and named is None  # a name is for one call of it
    return ToolUse(functions, "required" if mode == "required" else "auto", named, several, allowed)


# Entries that clients give back as they got them, and that say nothing to a model.
_NO_OPS = {"annotations", "id"}


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as chat templates take them: without what says nothing, such as
    `"tool_calls": null`; `reasoning` as `reasoning_content`.

    Raises:
        ApiError: the old form of calls, or a call that is none.
    """
    written = []
    for index, message in enumerate(messages):
        kept = {
            name: value
            for name, value in message.items()
            if name == "content" or (value not in (None, []) and name not in _NO_OPS)
        }
        for name in {"function_call", "audio"} & kept.keys():
            raise ApiError(400, f"{name} is not taken; give tool_calls", f"messages.{index}.{name}")
        if kept.get("role") == "function":
            words = "the role function is the old form of tool, with a tool_call_id"
            raise ApiError(400, words, f"messages.{index}.role")
        if isinstance(calls := kept.get("tool_calls"), list):
            for call in calls:
                _check_call(call, f"messages.{index}.tool_calls")
        if "reasoning" in kept:
            kept.setdefault("reasoning_content", kept.pop("reasoning"))
        written.append(kept)
    return written


def _check_call(call: Any, where: str) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    is_call = isinstance(function, dict) and call.get("type", "function") == "function"
    texts = [function.get("name"), function.get("arguments")] if is_call and function else [None]
    if not all(isinstance(text, str) for text in texts):
        example = '{"id": "call_1", "type": "function", "function": {"name": …, "arguments": "{}"}}'
        raise ApiError(400, f"found {call!r:.80}, expected {example}", where)


def answer_message(answer: ParsedAnswer) -> dict[str, Any]:
    """Return an answer as a message."""
    message = answer.message() | {"refusal": None, "annotations": []}
    return message | (_reasoning(answer.reasoning) if answer.reasoning else {})


def _reasoning(text: str) -> dict[str, str]:
    """Return reasoning under both names that clients look for: llama.cpp's and vLLM's."""
    return {"reasoning_content": text, "reasoning": text}


def delta(event: Event) -> dict[str, Any]:
    """Return an event as the delta of a chunk; a call that begins gets a new id."""
    if isinstance(event, Text):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return _reasoning(event.text)
    if isinstance(event, CallBegun):
        call = ToolCall(new_call_id(), event.name, "")
        return {"tool_calls": [{"index": event.call, **call.entry()}]}
    assert isinstance(event, CallArguments)
    return {"tool_calls": [{"index": event.call, "function": {"arguments": event.text}}]}
