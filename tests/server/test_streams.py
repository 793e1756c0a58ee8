"""Streams that survive a lost connection, and the view of the engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from live_server import LiveServer

from cullama.server.http import stored_streams
from cullama.server.http.errors import ApiError

BODY: Any = {"prompt": "Once", "seed": 3, "max_tokens": 60, "ignore_eos": True}
LONG: Any = {**BODY, "max_tokens": 3000}


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def begin(server: LiveServer, body: Any, number: int) -> tuple[str, list[str]]:
    """Read so many events of a resumable stream, then lose the connection; returns its id."""
    events: list[str] = []
    asked = {**body, "stream": True, "resumable": True}
    with server.http.stream("POST", "/v1/completions", json=asked) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line)
            if len(events) == number:
                break
    return json.loads(events[0].removeprefix("data: "))["id"], events


def rest(server: LiveServer, id: str, **how: Any) -> list[str]:
    response = server.http.get(f"/v1/streams/{id}", **how)
    assert response.status_code == 200
    return [line for line in response.text.splitlines() if line.startswith("data: ")]


def text(events: list[str]) -> str:
    chunks = [json.loads(each.removeprefix("data: ")) for each in events if "[DONE]" not in each]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("by_header", [False, True])
def test_a_client_that_comes_back_gets_the_rest(
    server: LiveServer, number: int, by_header: bool
) -> None:
    whole = server.post("/v1/completions", BODY).json()["choices"][0]["text"]
    id, events = begin(server, BODY, number)
    how = {"headers": {"last-event-id": str(number)}} if by_header else {"params": {"from": number}}
    more = rest(server, id, **how)
    assert text(events + more) == whole
    assert (events + more)[-1] == "data: [DONE]"  # the first events may be all of them


def test_a_stream_can_be_read_again_from_its_start_after_its_end(server: LiveServer) -> None:
    id, _ = begin(server, BODY, 1)
    first = rest(server, id)
    assert rest(server, id) == first
    assert rest(server, id, params={"from": len(first)}) == []


def test_events_are_numbered_from_one_on(server: LiveServer) -> None:
    id, _ = begin(server, BODY, 1)
    lines = server.http.get(f"/v1/streams/{id}").text.splitlines()
    numbers = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_cancelled_stream_ends_its_request_and_keeps_what_came(server: LiveServer) -> None:
    id, events = begin(server, LONG, 5)
    assert server.service.engine.num_running == 1
    assert server.http.delete(f"/v1/streams/{id}").status_code == 200
    assert eventually(lambda: server.service.engine.num_running == 0, 5)
    kept = rest(server, id)
    assert kept[:5] == events
    assert '"code": "cancelled"' in kept[-2]  # or who reads it would take the connection for lost
    assert kept[-1] == "data: [DONE]"
    assert server.http.delete(f"/v1/streams/{id}").status_code == 200


def test_a_stream_that_nobody_reads_is_cancelled_and_an_old_one_dropped(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_streams, "ALONE_SECONDS", 0.2)
    monkeypatch.setattr(stored_streams, "KEPT_SECONDS", 0.2)
    monkeypatch.setattr(stored_streams, "SWEEP_SECONDS", 0.1)
    id, _ = begin(server, LONG, 2)
    assert eventually(lambda: server.service.engine.num_running == 0)
    assert eventually(lambda: id not in server.service.streams.ids)
    assert server.http.get(f"/v1/streams/{id}").status_code == 404


def test_no_more_streams_are_kept_than_the_bound(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_streams, "MAX_STREAMS", 0)
    asked = {**LONG, "stream": True, "resumable": True}
    assert server.post("/v1/completions", asked).status_code == 429
    assert server.service.engine.num_running == 0


def test_of_a_stream_that_grows_beyond_the_bound_the_newest_events_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_streams, "MAX_BYTES", 100)

    async def main() -> None:
        async def events() -> AsyncGenerator[bytes, None]:
            for number in range(20):
                yield b"data: %d\n\n" % number
                await asyncio.sleep(0)  # whoever follows reads

        stream = stored_streams.StoredStream(events())
        followed = b"".join([part async for part in stream.read(0)])
        assert followed.count(b"id: ") == stream.num_events == 20
        kept = stream.num_events - stream.num_dropped
        assert 1 < kept < 10
        late = b"".join([part async for part in stream.read(stream.num_dropped)])
        assert late.startswith(b"id: %d\n" % (stream.num_dropped + 1))
        assert late.endswith(b"id: 20\ndata: 19\n\n")
        with pytest.raises(ApiError, match=f"the first {stream.num_dropped} events"):
            stream.check_start(stream.num_dropped - 1)

    asyncio.run(main())


def test_a_reader_that_is_too_slow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_streams, "MAX_BYTES", 100)

    async def main() -> bytes:
        async def events() -> AsyncGenerator[bytes, None]:
            for number in range(20):
                yield b"data: %d\n\n" % number
                if not number:
                    await asyncio.sleep(0.01)

        reader = stored_streams.StoredStream(events()).read(0)
        first = await anext(reader)
        await asyncio.sleep(0.05)  # all the others come meanwhile
        return first + b"".join([part async for part in reader])

    assert asyncio.run(main()).partition(b"data: ")[2].startswith(b'0\n\ndata: {"error"')


def test_who_asks_for_later_events_than_there_are_waits_for_those() -> None:
    async def main() -> bytes:
        more = asyncio.Event()

        async def events() -> AsyncGenerator[bytes, None]:
            yield b"data: a\n\n"
            await more.wait()
            yield b"data: b\n\ndata: c\n\n"

        reader = stored_streams.StoredStream(events()).read(2)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.01)
        more.set()
        return await first

    assert asyncio.run(main()) == b"id: 3\ndata: c\n\n"


def test_an_unknown_stream_and_a_resumable_answer_without_stream_are_refused(
    server: LiveServer,
) -> None:
    assert server.http.get("/v1/streams/cmpl-none").status_code == 404
    assert server.http.delete("/v1/streams/cmpl-none").status_code == 404
    refused = server.post("/v1/completions", {**BODY, "resumable": True})
    assert refused.json()["error"]["param"] == "resumable"


def state(server: LiveServer) -> Any:
    line = server.http.get("/engine", params={"once": True}).text
    return json.loads(line.removeprefix("data: "))


def test_the_engine_shows_requests_passes_and_blocks_and_no_text(server: LiveServer) -> None:
    id, _ = begin(server, LONG, 3)
    shown = state(server)
    [request] = shown["requests"]
    assert request["stage"] == "decode"
    assert 3 <= request["tokens"] <= 3000 == request["max_tokens"]
    assert shown["status"]["state"] == "ready"
    assert shown["last_pass"]["decodes"] == 1
    assert shown["last_pass"]["blocks_referenced"] > 0
    assert shown["totals"]["drawn_tokens"] >= 3
    assert "Once" not in json.dumps(shown)
    server.http.delete(f"/v1/streams/{id}")
    assert eventually(lambda: state(server)["requests"] == [])


def test_the_engine_is_shown_four_times_a_second(server: LiveServer) -> None:
    with server.http.stream("GET", "/engine") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        shown = [line for line, _ in zip(response.iter_lines(), range(6), strict=False) if line]
    assert len(shown) == 3
