"""Decides who may ask: API keys, and which hosts and origins a browser may come from.

Without it any page that someone has open could use a server on their loopback address, through its
address or through a name that resolves to it (DNS rebinding).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

OPEN_PATH = "/health"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}

PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Max-Age": "600",  # seconds
}


@dataclass(frozen=True)
class AccessRules:
    """Attributes:
    api_keys: one of them has to come as `Authorization: Bearer KEY`; none are asked for if empty.
    hosts: names that the Host header may have, without port; None takes any.
    origins: other origins whose pages may use the server: "https://chat.example.org".
    """

    api_keys: Sequence[str] = ()
    hosts: Sequence[str] | None = LOOPBACK
    origins: Sequence[str] = ()


class Access:
    """ASGI middleware; `open_paths` need no key: those of the page, which asks for one itself."""

    def __init__(
        self, app: ASGIApp, rules: AccessRules, prefix: str = "", open_paths: Collection[str] = ()
    ) -> None:
        self._app, self._rules, self._prefix = app, rules, prefix
        self._open_paths = frozenset((OPEN_PATH, *open_paths))
        self._keys = [key.encode() for key in rules.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    added.setdefault(name, value)
                if origin in self._rules.origins:
                    added["Access-Control-Allow-Origin"] = str(origin)
                    added["Access-Control-Expose-Headers"] = "Retry-After, X-Should-Retry"
                    added["Vary"] = "Origin"
            await send(message)

        response = self._refusal(scope, headers)
        if response is None and _is_preflight(scope, headers):
            # Whatever headers it names: OpenAI's client sends X-Stainless-Lang and others.
            named = headers.get("access-control-request-headers", "")
            allowed = {**PREFLIGHT_HEADERS, "Access-Control-Allow-Headers": named}
            response = Response(status_code=204, headers=allowed)
        await (response or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._rules.hosts is not None and _host_name(host) not in self._rules.hosts:
            words = (
                f"the Host header is {host[:80]!r}, expected one of {', '.join(self._rules.hosts)}"
            )
            return ApiError(403, words, code="host_not_allowed").response()
        is_own = origin is not None and origin.partition("://")[2] == host
        if origin is not None and not is_own and origin not in self._rules.origins:
            words = (
                f"the origin {origin[:80]!r} is not allowed; start with --cors-origin to allow it"
            )
            return ApiError(403, words, code="origin_not_allowed").response()
        path = scope["path"].removeprefix(self._prefix)
        if path in self._open_paths or _is_preflight(scope, headers):
            return None
        if self._keys and not self._has_key(headers):
            words = "no valid API key, expected the header 'Authorization: Bearer KEY'"
            return ApiError(401, words, code="invalid_api_key").response()
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # All are compared, in constant time: how long it takes says nothing about a key.
        sent = given.strip().encode("latin-1")  # as which every byte of a header was decoded
        matches = [hmac.compare_digest(sent, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _host_name(host: str) -> str:
    """Return a Host header's name, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
