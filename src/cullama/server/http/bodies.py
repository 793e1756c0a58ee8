"""Reads a request's JSON body whole, within bounds, before any route sees it.

Refused: more than MAX_BODY_BYTES or BODY_SECONDS, duplicate keys, NaN and infinities, more than
MAX_DEPTH levels: what JSON readers disagree about, or what costs too much.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

VALUE = "cullama.json"  # in the scope: the body's value
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

MAX_BODY_BYTES = 2 << 20
MAX_READ_BYTES = 32 << 20  # of a body that is too large, before the connection is closed on it
BODY_SECONDS = 30.0
MAX_DEPTH = 32
MAX_INLINE_BYTES = 64 << 10  # larger bodies are parsed in another thread, beside the event loop
MAX_DIGITS = 400  # of a number: Python reads longer ones in quadratic time


class JsonBodies:
    """ASGI middleware: the application gets the whole body in one message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_read(receive, Headers(scope=scope)), BODY_SECONDS)
            if body is None:  # the client has left
                return
            if body:
                is_large = len(body) > MAX_INLINE_BYTES
                read = asyncio.to_thread(read_json, body) if is_large else None
                scope[VALUE] = await read if read else read_json(body)
        except asyncio.TimeoutError:
            error = ApiError(408, f"the body did not come within {BODY_SECONDS:g} s")
        except ApiError as refusal:
            error = refusal
        else:
            await self._app(scope, _replay(body, receive), send)
            return
        response = error.response()
        response.headers["connection"] = "close"  # the rest of the body is never read
        await response(scope, receive, send)


async def _read(receive: Receive, headers: Headers) -> bytes | None:
    """Return the body, or None where the client has left.

    Of a body that is too large the rest is passed over before it is refused: closed earlier, the
    connection would be reset, and most clients would never see why. One that asks first (`Expect:
    100-continue`) is refused before it sends anything.
    """
    refusal = ApiError(413, f"the body has more than {MAX_BODY_BYTES:,} bytes")
    length = headers.get("content-length", "0")
    if "expect" in headers and int(length) > MAX_BODY_BYTES:
        raise refusal
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk, is_last = message.get("body", b""), not message.get("more_body", False)
        size += len(chunk)
        if size > MAX_READ_BYTES or (is_last and size > MAX_BODY_BYTES):
            raise refusal
        if size <= MAX_BODY_BYTES:
            body += chunk
        if is_last:
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return the body once, then what the connection says."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


class JsonRoute(APIRoute):
    """A route whose body is parsed once, by `JsonBodies`; FastAPI would parse it again."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        return self.scope[VALUE]


def read_json(body: bytes) -> Any:
    """Return a body's value. Raises ApiError: it is not JSON as all readers agree on it."""
    try:
        text = body.decode()
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
        _check_depth(value, MAX_DEPTH)
        if SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which is no text
        raise ApiError(400, "a text in the body holds half of a surrogate pair") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise ApiError(400, f"the body nests deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        words = f"the body is not JSON: {error.msg}, at line {error.lineno}, column {error.colno}"
        raise ApiError(400, words) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, f"the body has {double[:60]!r} twice in one object", double[:60])
    return found


def _no_constant(name: str) -> NoReturn:
    raise ApiError(400, f"the body holds {name}, which JSON does not have")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ApiError(400, f"the body holds a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ApiError(400, f"the body holds {digits[:20]}, which is out of range")
    return value


def _check_depth(value: Any, levels: int) -> None:
    if levels < 0:
        raise ApiError(400, f"the body nests deeper than {MAX_DEPTH} levels")
    inner = value.values() if isinstance(value, dict) else value
    for each in inner if isinstance(value, (dict, list)) else ():
        if type(each) in (dict, list):
            _check_depth(each, levels - 1)
