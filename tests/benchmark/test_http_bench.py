"""The server beside the engine: the same tokens on both sides, and figures that add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cullama import LLM
from cullama.benchmark.http.bench import HttpPlan, Pairs, Throughput, benchmark
from cullama.benchmark.http.processes import ClientProcess, ServerProcess
from cullama.benchmark.serve import Workload
from cullama.errors import CullamaError

OPTIONS = ["--backend", "cpu:numpy", "--threads", "1"]
PLAN = HttpPlan(
    streams=3,
    tokens=9,
    rounds=2,
    first=2,
    first_prompt=5,
    workload=Workload(requests=4, shortest=2, longest=9),
)


def test_engine_and_server_generate_the_tokens_asked_for(chat_model: Path) -> None:
    told: list[tuple[int, int]] = []
    llm = LLM(chat_model, backend="cpu:numpy", threads=1)
    arguments = ["--model", str(chat_model), *OPTIONS]
    report = benchmark(llm, arguments, PLAN, lambda *state: told.append(state))
    assert [run.tokens for run in (*report.streams.engine, *report.streams.http)] == [27] * 4
    assert report.workload is not None
    assert PLAN.workload is not None
    asked = sum(request.answer for request in PLAN.workload.draw(llm.config))
    assert [report.workload.engine[0].tokens, report.workload.http[0].tokens] == [asked, asked]
    assert len(report.first_engine) == len(report.first_http) == 2
    assert min(report.first_http) > 0
    assert told == [(done, 4) for done in range(4)]
    figures = json.loads(json.dumps(report.as_json()))
    assert figures["streams"]["ratio"] == pytest.approx(report.streams.ratio)
    assert {"front", "engine", "client"} == report.streams.http[0].cpu.keys()


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    def runs(*seconds: float) -> tuple[Throughput, ...]:
        return tuple(Throughput(100, each, {}) for each in seconds)

    assert Pairs(runs(1, 2, 3), runs(2, 2, 4)).ratio == pytest.approx(0.75)


def test_a_stream_that_ends_early_is_an_error(chat_model: Path) -> None:
    with ServerProcess(["--model", str(chat_model), *OPTIONS]) as server, ClientProcess() as client:
        server.wait_until_ready()
        with pytest.raises(CullamaError, match="unknown field"):
            client.ask(server.port, [{"prompt": "a", "nonsense": 1}])
        answer = client.ask(
            server.port,
            [{"prompt": "a", "max_tokens": 2, "ignore_eos": True, "stream": True,
              "stream_options": {"include_usage": True}}],
        )  # fmt: skip
        assert answer["tokens"] == [2]


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CullamaError, match="did not start"):
        ServerProcess(["--model", str(tmp_path), *OPTIONS])
