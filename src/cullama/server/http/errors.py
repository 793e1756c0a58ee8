"""Words errors as OpenAI's API does: {"error": {"message", "type", "param", "code"}}.

A message names the field; it holds no path of this machine, no traceback, and no text of a prompt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...errors import (
    ClosedError,
    ConstraintError,
    ContextLengthError,
    CullamaError,
    EngineUnavailableError,
    NoTokenizerError,
    QueueFullError,
    UsageError,
)

RETRY_SECONDS = 2

# Of OpenAI's API; other fields are unknown.
NOT_OFFERED = {
    *("audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"),
}

RENAMED = {"functions": "tools", "function_call": "tool_choice"}  # of OpenAI's older API

# Of vLLM and llama.cpp.
NAMED_OTHERWISE = {
    "guided_json": "response_format",
    "guided_regex": "regex",
    "guided_grammar": "grammar",
    "guided_choice": "choice",
    "structured_outputs": "response_format, regex, grammar or choice",
    "json_schema": "response_format",
    "n_predict": "max_tokens",
    "n_probs": "logprobs",
    "repeat_penalty": "repetition_penalty",
    "cache_prompt": "nothing: prompts are cached anyway",
}

log = logging.getLogger("cullama.server")


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> Response:
        headers = {}
        if self.status in (429, 503):
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 500:  # the HTTP library ends the connection behind a mistake of ours
            headers["Connection"] = "close"
        if self.status == 501:  # which OpenAI's clients would ask for again, as after any 5xx
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = error_body(self.message, self.status, self.param, self.code)
        return Response(body, self.status, headers, media_type="application/json")


class _Kind(NamedTuple):
    status: int
    code: str | None


# The first that an error is an instance of counts.
_KINDS: dict[type[Exception], _Kind] = {
    ContextLengthError: _Kind(400, "context_length_exceeded"),
    UsageError: _Kind(400, None),
    NoTokenizerError: _Kind(400, "no_tokenizer"),
    QueueFullError: _Kind(429, "queue_full"),
    EngineUnavailableError: _Kind(503, "engine_unavailable"),
    ClosedError: _Kind(503, "engine_unavailable"),
}


# Fields of requests that become other parameters here.
_PARAMS = {"json_schema": "response_format", "json_object": "response_format"}


def error_body(
    message: str, status: int = 400, param: str | None = None, code: str | None = None
) -> bytes:
    return json.dumps({"error": error_object(message, status, param, code)}).encode()


def error_object(
    message: str, status: int = 400, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    return {
        "message": message,
        "type": kind if status < 500 else "server_error",
        "param": param,
        "code": code,
    }


def api_error(error: Exception) -> ApiError:
    """Return the answer to an error of ours; any other is a mistake of ours and says so alone."""
    if isinstance(error, ApiError):
        return error
    for kind, (status, code) in _KINDS.items():
        if isinstance(error, kind):
            param = error.param if isinstance(error, ConstraintError) else None
            return ApiError(status, str(error), _PARAMS.get(param or "", param), code)
    log.error("a request failed", exc_info=error)
    if isinstance(error, CullamaError):  # of the model or the device: its message may name files
        return ApiError(
            500, f"the request failed with {type(error).__name__}; see the server's log"
        )
    return ApiError(500, "the request failed; see the server's log")


async def answer_error(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer a path or method that no route has; a method, with those that the path has."""
    assert isinstance(error, HTTPException)
    path = request.url.path.removeprefix(request.app.state.prefix)
    fitting = [route for route in request.app.state.routes if route.path_regex.match(path)]
    methods = ", ".join(sorted({method for route in fitting for method in route.methods}))
    named = (error.headers or {}).get("Allow", "GET")  # in the order of a set
    allow = methods or ", ".join(sorted(named.split(", ")))
    paths = ", ".join(request.app.state.paths)
    words = {
        404: f"there is no route {request.url.path[:80]}, expected one of {paths}",
        405: f"{request.method} is not allowed on {request.url.path[:80]}, expected {allow}",
    }
    answer = ApiError(error.status_code, words.get(error.status_code, str(error.detail)))
    response = answer.response()
    if error.status_code == 405:
        response.headers["Allow"] = str(allow)
    return response


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Answer a body or query that does not have the route's fields and types."""
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):  # it was not read as JSON, though it is
        sent = request.headers.get("content-type")
        words = f"the Content-Type is {sent[:80]!r}" if sent else "there is no Content-Type"
        return ApiError(415, f"{words}, expected application/json").response()
    found = error.errors()
    # Where one of several types was expected, each has its error: that of the right type counts,
    # which got furthest.
    of_values = [each for each in found if not each["type"].endswith("_type")] or found
    of_one = [each for each in of_values if each["loc"][:2] == of_values[0]["loc"][:2]]
    first = max(of_one, key=lambda each: len(each["loc"]))
    param = _field(first["loc"], error.body)
    if first["type"] == "extra_forbidden":
        if param in NOT_OFFERED:
            words = f"{param} is not offered by this server; leave it out"
        elif param in NAMED_OTHERWISE:
            words = f"{param} is not taken; expected {NAMED_OTHERWISE[param]}"
        elif param in RENAMED:
            words = f"{param} is the old form of {RENAMED[param]}; give that"
        else:
            words = f"unknown field {param!r}; leave it out, or correct its name"
        return ApiError(400, words, param, "unknown_parameter").response()
    if first["type"] == "missing":
        words = f"{param or 'a JSON body'} is missing"
        return ApiError(400, words, param, "missing_parameter").response()
    said = first["msg"].replace(" after validation", "")
    words = f"{param or 'the body'}: {said[:1].lower()}{said[1:]}"
    return ApiError(400, f"{words}; found {_short(first.get('input'))}", param).response()


def _field(location: Sequence[str | int], body: Any) -> str | None:
    """Return where an error is, as `messages.0.role`; locations name types between the fields."""
    parts, value = [], body
    last = len(location) - 1
    for place, part in enumerate(location[1:], 1):
        if isinstance(value, dict) and (part in value or place == last):
            parts.append(str(part))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            parts.append(str(part))
            value = value[part] if part < len(value) else None
    return ".".join(parts) or None


def _short(value: object) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
