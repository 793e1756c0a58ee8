"""Connections that send too much, too slowly, or leave: refused, closed, cancelled."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from live_server import LiveServer

from cullama import LLM, SamplingParams
from cullama.engine.client import GenerationRequest
from cullama.server.api.answers import Answer
from cullama.server.http import connection, events
from cullama.text.generation import generate_async, submit

LONG = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True}


def connect(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def post(body: Any) -> bytes:
    """Return the bytes of a request for /v1/completions."""
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def ask(server: LiveServer, body: Any) -> socket.socket:
    """Send a request for /v1/completions, and read nothing."""
    opened = connect(server)
    opened.sendall(post(body))
    return opened


def read_all(opened: socket.socket) -> bytes:
    with opened:
        received = b""
        while piece := opened.recv(65536):
            received += piece
    return received


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def is_idle(server: LiveServer) -> bool:
    return server.service.engine.num_running == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % k for k in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET /" + b"a" * (1 << 20),
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
)
def test_heads_that_are_too_large_or_no_http_get_a_400_and_a_closed_connection(
    server: LiveServer, sent: bytes
) -> None:
    opened = connect(server)
    try:
        opened.sendall(sent)
        answer = read_all(opened)
    except ConnectionError:  # closed while it was being sent
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"expected an HTTP/1.1 request" in body


def test_a_head_that_is_never_finished_is_given_up(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: local"):
        opened = connect(server)
        opened.sendall(sent)
        try:
            answer = read_all(opened)
        except ConnectionError:
            answer = b""
        assert answer == b""


def test_a_connection_serves_one_request_after_the_other(server: LiveServer) -> None:
    with connect(server) as opened:
        for _ in range(3):
            opened.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b'"status":"ok"' not in received:
                received += opened.recv(65536)


def test_a_body_that_is_never_finished_is_given_up(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cullama.server.http.bodies.BODY_SECONDS", 0.2)
    opened = connect(server)
    opened.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    )
    assert read_all(opened).startswith(b"HTTP/1.1 408")


def test_a_stream_that_is_closed_at_its_first_event_cancels_its_samples(local: LLM) -> None:
    request = GenerationRequest([0, 40], SamplingParams(max_tokens=100))
    samples = submit(local.client, request, local.tokenizer)

    async def main() -> None:
        chunks = Answer(samples, 1, local.tokenizer).stream({}, lambda *_: [], first=[{}])
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(main())
    assert samples[0].handle.read().finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("encode", "/v1/completions", {"prompt": "a" * 2001, "max_tokens": 1}),
        (
            "conversation",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
        ),
    ],
)
def test_others_are_answered_while_a_long_prompt_is_encoded(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    encode = getattr(server.service, method)

    def slowly(*prompt: Any) -> Any:
        has_begun.set()
        assert may_end.wait(20)
        return encode(*prompt)

    monkeypatch.setattr(server.service, method, slowly)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, path, body)
        try:
            assert has_begun.wait(20)
            assert server.http.get("/health", timeout=10).status_code == 200
        finally:
            may_end.set()
        assert answer.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(server: LiveServer, stream: bool) -> None:
    opened = ask(server, {**LONG, "stream": stream})
    assert eventually(lambda: server.service.engine.num_running == 1)
    if stream:
        assert opened.recv(100)
    opened.close()
    assert eventually(lambda: is_idle(server), 2)


def test_many_clients_that_leave_at_any_moment_leave_nothing_behind(server: LiveServer) -> None:
    pool = server.service.engine
    for wait in range(60):
        opened = ask(server, {**LONG, "stream": bool(wait % 2), "n": 1 + wait % 3})
        time.sleep(0.002 * (wait % 10))
        opened.close()
    assert eventually(lambda: is_idle(server))
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert answer.status_code == 200
    figures = server.http.get("/metrics").text
    assert "cullama_blocks_referenced 0.0" in figures
    assert pool.status.state == "ready"


def test_a_client_that_reads_nothing_is_given_up(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.5)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", server.port))
        opened.sendall(post({**LONG, "stream": True, "n": 8, "logprobs": 20}))
        assert eventually(lambda: server.service.engine.num_running == 8)
        assert eventually(lambda: is_idle(server))


def test_a_long_silence_is_filled_with_comments(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr("cullama.server.api.answers.generate_async", _slowly(0.3))
    body = {"prompt": "a", "max_tokens": 1, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        lines = list(response.iter_lines())
    assert lines.count(": keep-alive") >= 3
    assert lines[-2] == "data: [DONE]"


def _slowly(seconds: float) -> Any:
    async def slowly(samples: Any) -> Any:
        await asyncio.sleep(seconds)
        async for pieces in generate_async(samples):
            yield pieces

    return slowly


def test_a_stream_whose_head_is_never_sent_ends_its_request(server: LiveServer) -> None:
    service = server.service
    params = SamplingParams(max_tokens=3000, ignore_eos=True)
    samples = service.submit("chat", [5, 6], params, None)
    answer = Answer(samples, 1, service.llm.tokenizer)
    stream = service.stream("a", answer.stream({}, lambda piece, sample: []), None, samples)

    async def never(message: Any) -> None:
        await asyncio.sleep(60)

    async def left() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(stream({"type": "http"}, left, never))
    assert eventually(lambda: is_idle(server))
