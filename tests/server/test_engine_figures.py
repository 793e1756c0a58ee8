"""How far prompts are read, and what the engine's views say of passes, blocks and time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, live_server
from prometheus_client.parser import text_string_to_metric_families

CHAT = "/v1/chat/completions"
SECRET = "zebra"


def _long(text: str, words: int = 500) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{text} " * words}]


@pytest.fixture(scope="module")
def measured(chat_model: Path) -> Iterator[LiveServer]:
    with live_server(chat_model, measures=True) as live:
        yield live


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_says_how_much_of_a_long_prompt_was_read(server: LiveServer, n: int) -> None:
    body = {"messages": _long(f"A{n}"), "max_tokens": 3, "return_progress": True, "n": n}
    events = server.events(CHAT, {**body, "stream_options": {"include_usage": True}})
    usage = events[-1]["usage"]
    found = [each["prompt_progress"] for each in events if "prompt_progress" in each]
    total = usage["prompt_tokens"]
    assert total > 1024  # more than two passes
    assert len(found) > 2
    processed = [each["processed"] for each in found]
    assert processed == sorted(set(processed))
    assert processed[-1] == total
    assert {each["total"] for each in found} == {total}
    [cached] = {each["cache"] for each in found}
    assert cached < 32  # of the template
    times = [each["time_ms"] for each in found]
    assert times == sorted(times)
    assert times[0] > 0
    chunk = next(each for each in events if "prompt_progress" in each)
    delta = {"role": "assistant", "content": None}
    assert chunk["choices"] == [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    ]
    again = server.events(CHAT, body)
    [whole] = [each["prompt_progress"] for each in again if "prompt_progress" in each]
    assert whole["processed"] == total
    assert whole["cache"] > total - 64


def test_each_prompt_of_a_completion_has_its_progress(server: LiveServer) -> None:
    body = {"prompt": ["One two", "Three"], "max_tokens": 2, "n": 2, "return_progress": True}
    events = server.events("/v1/completions", body)
    told = [each for each in events if "prompt_progress" in each]
    assert [each["choices"][0]["index"] for each in told] == [0, 2]
    for each in told:
        assert each["prompt_progress"]["processed"] == each["prompt_progress"]["total"]


def test_progress_is_only_for_streams(server: LiveServer) -> None:
    refused = server.post(CHAT, {"messages": _long("a", 1), "return_progress": True})
    assert refused.json()["error"]["param"] == "return_progress"


def _state(server: LiveServer) -> Any:
    text = server.http.get("/engine", params={"once": True}).text
    return json.loads(text.removeprefix("data: "))


def test_the_engine_lists_what_each_request_has_read_and_written(server: LiveServer) -> None:
    body = {"messages": _long(SECRET, 99), "ignore_eos": True, "max_tokens": 1200, "stream": True}
    with server.http.stream("POST", CHAT, json=body) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        first = json.loads(next(lines).removeprefix("data: "))
        next(lines)
        state = _state(server)
        [shown] = [each for each in state["requests"] if each["id"] == first["engine_request"]]
    assert shown["kind"] == "chat"
    assert shown["stage"] == "decode"
    assert shown["prefilled_tokens"] == shown["prompt_tokens"]
    assert 0 < shown["tokens"] <= shown["max_tokens"] == 1200
    used = shown["prompt_tokens"] + shown["tokens"] - 1  # the newest is not in the cache yet
    assert 0 <= shown["blocks"] * state["blocks"]["size"] - used < 2 * state["blocks"]["size"]
    assert SECRET not in json.dumps(state)
    blocks = state["blocks"]
    assert blocks["free"] + blocks["cached"] + blocks["referenced"] == blocks["count"]
    assert state["passes"]
    assert {"seconds", "decode_tokens", "prefill_tokens"} == set(state["passes"][-1])


def test_shares_of_the_roofline_are_of_measured_limits(measured: LiveServer) -> None:
    measured.post(CHAT, {"messages": _long("b", 100), "max_tokens": 20, "ignore_eos": True})
    costs = measured.http.get("/props").json()["costs"]
    assert costs["read_rate"] > 1e8
    assert costs["product_rate"] > 1e8
    for figures in (_state(measured)["roofline"], measured.http.get("/props").json()["roofline"]):
        decode = figures["decode"]
        assert figures["read_rate"] >= costs["read_rate"]  # the first of them
        assert decode["share_of_read"] == pytest.approx(
            decode["bytes_per_second"] / figures["read_rate"]
        )
        assert decode["share_of_read"] <= 1
        assert decode["bytes_per_second"] == pytest.approx(
            decode["operations_per_second"] / decode["operations_per_byte"]
        )
        assert decode["tokens_per_second"] > 0


def test_the_context_of_a_pass_is_that_of_its_requests(server: LiveServer) -> None:
    body = {"prompt": [[5] * 40, [6] * 60], "max_tokens": 1, "ignore_eos": True}
    assert server.post("/v1/completions", body).status_code == 200
    last = _state(server)["last_pass"]  # of both, or of the second one
    assert last["context_tokens"] in (100, 60)
    assert 0 < last["attended_tokens"] <= 60 * last["context_tokens"]


def test_a_share_that_was_not_measured_is_null(server: LiveServer) -> None:
    server.post(CHAT, {"messages": _long("c", 3), "max_tokens": 8, "ignore_eos": True})
    props = server.http.get("/props").json()
    assert props["costs"]["read_rate"] is None
    assert props["roofline"]["decode"]["share_of_read"] is None
    assert props["roofline"]["decode"]["operations_per_byte"] > 0


def _figures(server: LiveServer) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(server.http.get("/metrics").text)
        for sample in family.samples
    }


def test_metrics_observe_what_requests_wait_for(server: LiveServer) -> None:
    before = _figures(server)
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 6, "ignore_eos": True}
    assert server.post("/v1/completions", body).status_code == 200
    after = _figures(server)
    for name, count in (("queue", 4), ("first_token", 4), ("inter_token", 20), ("request", 4)):
        key = (f"cullama_{name}_seconds_count", "")
        assert after[key] - before[key] == count
        assert after[f"cullama_{name}_seconds_bucket", "+Inf"] == after[key]
        assert after[f"cullama_{name}_seconds_sum", ""] >= before[f"cullama_{name}_seconds_sum", ""]
    first, whole = (f"cullama_{name}_seconds_sum" for name in ("first_token", "request"))
    assert after[first, ""] - before[first, ""] <= after[whole, ""] - before[whole, ""]
    assert all(name.startswith("cullama_") for name, _ in after)
