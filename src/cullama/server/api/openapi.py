"""Writes /openapi.json: fields of requests as the routes check them, forms of answers, errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from . import forms
from .answers import Json

TEMPLATE = "#/components/schemas/{model}"

# What a route answers with where it does what it was asked for.
ANSWERS: dict[tuple[str, str], type[BaseModel]] = {
    ("post", "/v1/chat/completions"): forms.ChatCompletion,
    ("post", "/v1/completions"): forms.TextCompletion,
    ("post", "/v1/responses"): forms.ResponseObject,
    ("post", "/v1/responses/input_tokens"): forms.InputTokens,
    ("get", "/v1/models"): forms.ModelList,
    ("get", "/v1/models/{name}"): forms.ServedModel,
    ("get", "/health"): forms.Health,
    ("get", "/props"): forms.Props,
    ("post", "/tokenize"): forms.Tokenized,
    ("post", "/detokenize"): forms.Detokenized,
    ("post", "/apply-template"): forms.AppliedTemplate,
    ("post", "/check-form"): forms.CheckedForm,
    ("post", "/layers"): forms.Layers,
    ("delete", "/v1/streams/{id}"): forms.StreamCancelled,
}
STREAMS = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}  # with stream: true
EVENTS = {"/v1/streams/{id}", "/engine"}  # always
TEXTS = {"/metrics"}

ERRORS = {
    400: "The request cannot be done; or its head is no HTTP.",
    401: "No valid key.",
    403: "Another Host, or another Origin, than the server allows.",
    404: "No such model or stream.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not said to be application/json.",
    429: "Too many wait already.",
    503: "The model is loading, being replaced or failed.",
}
OF_ALL = (400, 401, 403)
OF_BODIES = (408, 413, 415)
OF_GENERATION = (404, 429, 503)
# As OpenAPI 3.2 has it, and FastAPI in 3.1, too. `data` is JSON, or [DONE].
EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string"}, "id": {"type": "string"}},
    "required": ["data"],
}
RETRY_AFTER = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}}}


def openapi_document(app: FastAPI, prefix: str, asks_for_keys: bool) -> Json:
    """Return the document of an application's routes.

    Args:
        prefix: before every path.
        asks_for_keys: whether all routes but /health need one.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    used: list[type[BaseModel]] = [*ANSWERS.values(), forms.ErrorAnswer]
    _, definitions = models_json_schema(
        [(form, "serialization") for form in used], ref_template=TEMPLATE
    )
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors
        schemas.pop(unused, None)
    schemas.update(definitions["$defs"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"] = responses_of(method, path.removeprefix(prefix))
    if asks_for_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"][f"{prefix}/health"]["get"]["security"] = []
    app.openapi_schema = document
    return document


def responses_of(method: str, path: str) -> Json:
    """Return what a route may answer with, by status."""
    content: dict[str, Any] = {}
    if (form := ANSWERS.get((method, path))) is not None:
        content["application/json"] = _schema(form)
    if path in STREAMS or (path in EVENTS and method == "get"):
        content["text/event-stream"] = {"itemSchema": EVENT}
    if path in TEXTS:
        content["text/plain"] = {"schema": {"type": "string"}}
    codes = [*OF_ALL]
    if method == "post":
        codes += OF_BODIES
    if path in STREAMS:
        codes += OF_GENERATION
    elif "{" in path:
        codes.append(404)
    responses = {
        "200": {"description": "What was asked for.", "content": content},
        **{str(code): _error(code) for code in codes},
    }
    if path == "/health":
        responses["503"] = {**_error(503), "content": {"application/json": _schema(forms.Health)}}
    return responses


def _error(code: int) -> Json:
    error = {
        "description": ERRORS[code],
        "content": {"application/json": _schema(forms.ErrorAnswer)},
    }
    return {**error, "headers": RETRY_AFTER} if code in (429, 503) else error


def _schema(form: type[BaseModel]) -> Json:
    return {"schema": {"$ref": TEMPLATE.format(model=form.__name__)}}
