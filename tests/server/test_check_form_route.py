"""POST /check-form: a schema is compiled without an answer, or refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer


def schema(**properties: Any) -> dict[str, Any]:
    form = {"type": "object", "properties": properties}
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": form}}
    }


def check(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    response = server.http.post("/check-form", json=body)
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("form", [{"regex": "[0-9]+"}, {"choice": ["yes", "no"]}])
def test_a_form_that_can_be_had_says_how_long_it_took(
    server: LiveServer, form: dict[str, Any]
) -> None:
    found = check(server, form)
    assert found.pop("milliseconds") > 0
    assert found == {"is_valid": True, "message": None, "pointer": None, "keyword": None}


def test_a_keyword_that_is_not_supported_is_named_with_its_place(server: LiveServer) -> None:
    found = check(server, schema(a={"type": "string"}, b={"not": {"type": "null"}}))
    assert not found["is_valid"]
    assert (found["keyword"], found["pointer"]) == ("not", "/properties/b/not")
    assert "'not' is not supported" in found["message"]


@pytest.mark.parametrize("form", [{"regex": "("}, {"regex": "a", "choice": ["a"]}])
def test_a_form_that_cannot_be_had_says_why(server: LiveServer, form: dict[str, Any]) -> None:
    found = check(server, form)
    assert (found["is_valid"], found["milliseconds"], found["keyword"]) == (False, None, None)
    assert "regex" in found["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "there is no form to check, expected one of response_format, regex, grammar, choice"),
        ({"response_format": {"type": "text"}}, "there is no form"),
        ({"schema": {}}, "unknown field 'schema'"),
    ],
)
def test_what_is_no_form_is_refused(server: LiveServer, body: dict[str, Any], words: str) -> None:
    response = server.http.post("/check-form", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
