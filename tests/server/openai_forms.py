"""Checks answers against the types of OpenAI's own client, strictly.

The client builds its types with `construct`, which takes whatever comes: what is missing shows only
where someone reads it. Here every required field has to be there, and each has to be of its type;
fields beyond are ours.
"""

from __future__ import annotations

import json
from typing import Any

from openai.types import Completion, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/responses": Response,
}
EVENTS: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": Completion,
    "/v1/responses": ResponseStreamEvent,
}

# What their openapi.json requires though it may be null; the client's types have defaults for it.
ERROR = {"message", "type", "param", "code"}
CHOICE = {
    "chat.completion": {"index", "message", "logprobs", "finish_reason"},
    "chat.completion.chunk": {"index", "delta", "finish_reason"},
    "text_completion": {"index", "text", "logprobs", "finish_reason"},
}
MESSAGE = {"role", "content", "refusal"}
LOGPROB = {"token", "logprob", "bytes", "top_logprobs"}
RESPONSE = {
    *("id", "object", "created_at", "error", "incomplete_details", "instructions", "model"),
    *("tools", "output", "parallel_tool_calls", "metadata", "tool_choice", "temperature", "top_p"),
}


def check(form: Any, value: Any) -> None:
    """Raises ValidationError: a field is missing, or of another type."""
    TypeAdapter(form).validate_json(json.dumps(value), strict=True)


def check_error(error: Any) -> None:
    check(ErrorObject, error)
    assert set(error) == ERROR


def check_model(model: Any) -> None:
    check(Model, model)


def check_answer(path: str, value: Any) -> None:
    """Check the whole answer of a route, an error too."""
    if "error" in value and "object" not in value:
        check_error(value["error"])
    elif path in ANSWERS:
        check(ANSWERS[path], _comparable(value))
        _check_nullable(value)
        if path != "/v1/responses":
            assert value["usage"]["prompt_tokens"] > 0


def check_event(path: str, value: Any) -> None:
    """Check one event of a stream."""
    if "error" in value and "object" not in value and "type" not in value:
        check_error(value["error"])
    else:
        check(EVENTS[path], _comparable(value))
        _check_nullable(value.get("response", value))


def _check_nullable(value: Any) -> None:
    """Check that what may be null is there."""
    if value.get("object") == "response":
        assert set(value) >= RESPONSE
    for choice in value.get("choices", ()):
        assert set(choice) >= CHOICE[value["object"]]
        assert set(choice.get("message", MESSAGE)) >= MESSAGE
        if value["object"] != "text_completion":
            logprobs = choice.get("logprobs") or {"content": None, "refusal": None}
            assert set(logprobs) == {"content", "refusal"}
            for each in logprobs["content"] or ():
                assert set(each) >= LOGPROB


def _comparable(value: Any) -> Any:
    """Return a completion as its type has it: there, what OpenAI's server sends as null too is not.

    In the chunks of a stream, `finish_reason` is null before the end; with `echo`, the first token
    has no log-probability.
    """
    if value.get("object") != "text_completion":
        return value
    choices = []
    for choice in value["choices"]:
        logprobs = dict(choice["logprobs"] or {})
        for name in ("token_logprobs", "top_logprobs"):
            if logprobs.get(name) and logprobs[name][0] is None:
                logprobs[name] = logprobs[name][1:]
        reason = choice["finish_reason"] or "stop"
        choices.append({**choice, "finish_reason": reason, "logprobs": logprobs or None})
    return {**value, "choices": choices}
