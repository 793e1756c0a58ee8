"""Keys, hosts and origins: who may use a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from live_server import LiveServer, live_server

from cullama.server.app import ROUTERS
from cullama.server.http.access import AccessRules

KEYS = ("a-secret-key", "another-key", "schlüssel")
ORIGIN = "https://chat.example.org"
PREFIX = "/llama"


@pytest.fixture(scope="module")
def guarded(chat_model: Path) -> Iterator[LiveServer]:
    rules = AccessRules(api_keys=KEYS, origins=[ORIGIN])
    with live_server(chat_model, rules, PREFIX) as live:
        yield live


def routes() -> list[tuple[str, str]]:
    """Return all methods and paths, those that are answered with 501, too."""
    return [
        ("GET", "/openapi.json"),
        *(
            (method, route.path.replace("{name:path}", "tiny-chat"))
            for router in ROUTERS
            for route in router.routes
            if isinstance(route, APIRoute)
            for method in sorted(route.methods or ())
        ),
    ]


def test_every_route_but_health_asks_for_the_key(guarded: LiveServer) -> None:
    asked = routes()
    assert ("POST", "/v1/chat/completions") in asked
    for method, path in asked:
        response = guarded.http.request(method, path)
        expected = 200 if path == "/health" else 401
        assert response.status_code == expected, (method, path)


@pytest.mark.parametrize("key", KEYS)
def test_each_key_is_taken(guarded: LiveServer, key: str) -> None:
    headers = {b"authorization": f"Bearer {key}".encode()}
    assert guarded.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer a-secret-ke",
        "Bearer a-secret-key2",
        "Basic a-secret-key",
        "a-secret-key",
        "Bearer ä",
    ],
)
def test_anything_else_is_refused_in_words(guarded: LiveServer, header: str) -> None:
    response = guarded.http.get("/v1/models", headers={b"authorization": header.encode()})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_a_key_is_asked_for_before_a_body_is_read(guarded: LiveServer) -> None:
    assert guarded.http.post("/v1/completions", content=b"{" * 100).status_code == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST"])
def test_a_loopback_server_answers_to_its_own_names(server: LiveServer, host: str) -> None:
    assert server.http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example.org", "localhost.evil.org", "127.0.0.1.evil", "["])
def test_a_name_that_was_rebound_to_it_is_refused(server: LiveServer, host: str) -> None:
    response = server.http.get("/health", headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "http://127.0.0.1:1"])
def test_pages_from_elsewhere_are_refused(server: LiveServer, origin: str) -> None:
    response = server.http.get("/v1/models", headers={"origin": origin})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in response.headers


def test_pages_of_the_server_itself_are_not(server: LiveServer) -> None:
    headers = {"origin": server.url}
    assert server.http.get("/v1/models", headers=headers).status_code == 200


def test_an_allowed_origin_may_ask_in_a_preflight_and_then_with_the_key(
    guarded: LiveServer,
) -> None:
    named = "authorization, content-type, x-stainless-lang"  # as OpenAI's client in a page does
    asking = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": named,
    }
    preflight = guarded.http.options("/v1/completions", headers=asking)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert preflight.headers["access-control-allow-headers"] == named
    headers = {"origin": ORIGIN, "authorization": f"Bearer {KEYS[0]}"}
    response = guarded.http.get("/v1/models", headers=headers)
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in response.headers["access-control-expose-headers"]
    assert guarded.http.get("/v1/models", headers={"origin": ORIGIN}).status_code == 401


def test_answers_forbid_what_browsers_would_try(server: LiveServer) -> None:
    headers = server.http.get("/health").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
