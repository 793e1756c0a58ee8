"""/openapi.json says what the routes take and answer; schemathesis tries it in clients/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from live_server import LiveServer, live_server

from cullama.server.http.access import AccessRules

CHAT = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def document(server: LiveServer) -> Any:
    return server.http.get("/openapi.json").json()


def validate(document: Any, path: str, method: str, status: int, value: Any) -> None:
    """Check an answer against the document's schema of it."""
    content = document["paths"][path][method]["responses"][str(status)]["content"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(value)


def test_every_route_says_how_it_answers_and_refuses(document: Any) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert responses["200"]["content"], (method, path)
            assert "422" not in responses, (method, path)
            for status in ("400", "401", "403"):
                assert responses[status]["content"]["application/json"], (method, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, "logprobs": 2, "echo": True}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 2, "top_logprobs": 1}),
        ("/v1/responses", {"input": "a", "conversation": "b"}),
        ("/tokenize", {"content": "a", "with_pieces": True}),
        ("/detokenize", {"tokens": [3]}),
        ("/apply-template", {"messages": CHAT["messages"]}),
        ("/v1/chat/completions", {}),
        ("/v1/completions", {"prompt": "a", "model": "another"}),
    ],
)
def test_answers_have_the_form_that_is_documented(
    server: LiveServer, document: Any, path: str, body: Any
) -> None:
    response = server.post(path, body)
    validate(document, path, "post", response.status_code, response.json())


@pytest.mark.parametrize("path", ["/health", "/props", "/v1/models"])
def test_what_routes_tell_has_the_form_that_is_documented(
    server: LiveServer, document: Any, path: str
) -> None:
    response = server.http.get(path)
    validate(document, path, "get", response.status_code, response.json())


def test_behind_a_prefix_and_with_keys_the_document_says_so(chat_model: Path) -> None:
    with live_server(chat_model, AccessRules(api_keys=["key"]), "/llama") as live:
        headers = {"authorization": "Bearer key"}
        document = live.http.get("/openapi.json", headers=headers).json()
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/llama/health"]["get"]["security"] == []
    assert "/llama/v1/chat/completions" in document["paths"]
    assert document["paths"]["/llama/v1/completions"]["post"]["responses"]["429"]["headers"]
