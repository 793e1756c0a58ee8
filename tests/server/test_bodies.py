"""Bodies that are no JSON, or that cost too much, are refused before a route sees them."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import LiveServer

from cullama.server.http.bodies import MAX_BODY_BYTES, MAX_DEPTH, read_json
from cullama.server.http.errors import ApiError

PATH = "/v1/completions"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"prompt=a", "not JSON"),
        (b'{"prompt": "a"} {}', "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 12"),
        (b'{"prompt": "a", "prompt": "b"}', "'prompt' twice"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity"),
        (b'{"prompt": "a", "temperature": 1e999}', "out of range"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "deeper than 32"),
        (b"[" * 100_000, "deeper than 32"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
    ],
)
def test_what_json_readers_disagree_about_is_refused(
    server: LiveServer, body: bytes, words: str
) -> None:
    response = server.http.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, "'application/x-www-form-url"),
        ({"content-type": "text/plain"}, "'text/plain', expected application/json"),
    ],
)
def test_json_that_is_sent_as_another_type_is_told_which_type_is_expected(
    server: LiveServer, headers: dict[str, str], words: str
) -> None:
    """The first is what curl sends with -d where no header is given."""
    response = server.http.post(PATH, content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == 415
    assert words in response.json()["error"]["message"]


def test_a_missing_body_is_refused(server: LiveServer) -> None:
    response = server.http.post(PATH)
    assert response.status_code == 400
    assert "missing" in response.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_and_the_connection_closed(server: LiveServer) -> None:
    body = b'{"prompt": "' + b"a" * MAX_BODY_BYTES + b'"}'
    response = server.http.post(PATH, content=body)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert "2,097,152 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 3 << 20, 20 << 20])
def test_a_client_that_sends_all_of_a_body_that_is_too_large_gets_the_answer(
    server: LiveServer, size: int
) -> None:
    """Many clients read nothing before they have sent everything."""
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head % (PATH.encode(), size) + b" " * size)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"2,097,152 bytes" in answer


def test_a_client_that_asks_before_it_sends_is_refused_at_once(server: LiveServer) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\nExpect: %b\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head % (PATH.encode(), b"100-continue"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_without_end_is_refused_before_it_fills_the_memory(server: LiveServer) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    num_sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head % PATH.encode())
        with suppress(OSError):
            while num_sent < 1000:
                connection.sendall(chunk)
                num_sent += 1
    assert num_sent < 100


def test_a_body_may_be_as_large_as_the_bound(server: LiveServer) -> None:
    head, tail = b'{"temperature": 9, "prompt": "', b'"}'
    body = head + b"a" * (MAX_BODY_BYTES - len(head) - len(tail)) + tail
    response = server.http.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400  # longer than the context, or than a text may be
    assert response.json()["error"]["param"] == "prompt"


@given(value=JSON)
def test_ordinary_json_is_taken(value: object) -> None:
    read_json(json.dumps(value).encode())


@given(depth=st.integers(1, 200))
def test_nesting_is_bounded(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH + 1:
        read_json(body)
    else:
        with pytest.raises(ApiError, match="deeper"):
            read_json(body)


@given(body=st.binary(max_size=60))
def test_any_bytes_are_json_or_an_error_in_words(body: bytes) -> None:
    with suppress(ApiError):
        read_json(body)
