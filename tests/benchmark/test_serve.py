"""Many requests at once: the workload is as stated, and every token asked for is served."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from cullama import LLM
from cullama.benchmark import serve
from cullama.benchmark.host import host_cost
from cullama.benchmark.serve import ServeRun, Workload, benchmark
from cullama.benchmark.trace import Recorder
from cullama.errors import UsageError

BATCH = 4
SMALL = Workload(requests=10, shortest=2, longest=20, seed=3)


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model)


def test_a_workload_is_uniform_and_reproducible(llm: LLM) -> None:
    requests = Workload(requests=2000, shortest=5, longest=9).draw(llm.config)
    assert requests == Workload(requests=2000, shortest=5, longest=9).draw(llm.config)
    for lengths in ([len(r.prompt) for r in requests], [r.answer for r in requests]):
        assert set(lengths) == {5, 6, 7, 8, 9}
        assert sum(lengths) / len(lengths) == pytest.approx(7, abs=0.2)
    assert {r.arrival for r in requests} == {0.0}
    assert all(0 <= token < llm.config.vocab_size for r in requests for token in r.prompt)


def test_arrivals_are_a_poisson_process(llm: LLM) -> None:
    arrivals = [r.arrival for r in Workload(requests=4000, rate=20.0).draw(llm.config)]
    gaps = [later - sooner for sooner, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.1)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1)  # of an exponential distribution


def test_each_kind_of_run_generates_the_tokens_asked_for(llm: LLM) -> None:
    requests = SMALL.draw(llm.config)
    answered = sum(r.answer for r in requests)
    groups = [requests[start : start + BATCH] for start in range(0, 10, BATCH)]
    thrown_away = sum(len(g) * max(r.answer for r in g) for g in groups) - answered
    runs = benchmark(llm, SMALL, BATCH).runs
    assert [run.kind for run in runs] == ["continuous", "static", "leaving"]
    assert [run.answered for run in runs] == [answered] * 3
    assert [run.computed - answered for run in runs] == [0, thrown_away, 0]
    assert runs[0].steps < runs[2].steps  # rows that leave make room for others
    for run in runs:
        assert run.cache_hit_rate == 0
        assert 0 < run.first_token["p50"] <= run.first_token["p99"] <= run.seconds
        assert 0 < run.between_tokens["p50"] <= run.between_tokens["p99"]
    assert not llm.engine.scheduler.has_work
    assert llm.engine.scheduler.max_running == 256


def test_progress_counts_the_requests_of_all_runs(llm: LLM) -> None:
    told: list[tuple[int, int]] = []
    benchmark(llm, SMALL, BATCH, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 30) for done in range(1, 31)]


def test_requests_are_not_served_before_they_arrive(llm: LLM) -> None:
    requests = Workload(requests=5, shortest=2, longest=3, rate=100.0, seed=1).draw(llm.config)
    for kind in (serve.continuous, serve.static):
        assert kind(llm.engine, requests, 2).seconds >= requests[-1].arrival


def test_a_ratio_is_of_tokens_a_second() -> None:
    def run(seconds: float) -> ServeRun:
        return ServeRun("", seconds, 100, 100, 1, 0, 0.0, {}, {})

    report = serve.ServeReport("", "", 1, (run(1.0), run(3.0)), host_cost(2, 4, 2))
    assert report.ratio(report.runs[1]) == pytest.approx(3.0)
    assert json.loads(json.dumps(report.as_json()))["runs"][1]["ratio"] == pytest.approx(3.0)


@pytest.mark.parametrize(("shortest", "longest"), [(5, 4), (0, 4)])
def test_lengths_the_wrong_way_round_are_refused(shortest: int, longest: int) -> None:
    with pytest.raises(UsageError, match=f"{shortest} to {longest}"):
        Workload(shortest=shortest, longest=longest)


def test_requests_longer_than_the_context_are_refused(llm: LLM) -> None:
    with pytest.raises(UsageError, match="up to 200 tokens"):
        benchmark(llm, Workload(requests=1, longest=100), BATCH)


def test_the_cost_of_scheduling_is_measured_with_all_sequences_decoding() -> None:
    cost = host_cost(sequences=20, prompt=40, steps=40)
    assert cost.sequences == 20
    assert cost.seconds == cost.schedule_seconds + cost.batch_seconds > 0


# --- the page


@pytest.fixture(scope="module")
def recorder(llm: LLM) -> Recorder:
    recorder = Recorder(llm.engine)
    benchmark(llm, SMALL, BATCH, recorder)
    return recorder


def test_a_recorder_observes_the_continuous_run_only(llm: LLM, recorder: Recorder) -> None:
    assert sum(step.drawn for step in recorder.steps) == sum(
        r.answer for r in SMALL.draw(llm.config)
    )
    assert all(step.decodes + step.prefills <= BATCH for step in recorder.steps)
    assert llm.engine.observers == []


def test_each_request_waits_prefills_decodes_and_leaves(recorder: Recorder) -> None:
    assert len(recorder.timelines) == 10
    for timeline in recorder.timelines:
        assert [stage for stage, _ in timeline.stages] == [
            "waiting",
            "prefill",
            "decode",
            "unscheduled",
        ]
        moments = [moment for _, moment in timeline.stages]
        assert moments == sorted(moments)


def data_of(page: str) -> dict[str, object]:
    found = re.search(r"^const data = (.*);$", page, re.MULTILINE)
    assert found
    return dict(json.loads(found.group(1)))


def test_the_page_holds_the_data_and_needs_nothing_else(recorder: Recorder) -> None:
    page = recorder.page("a title", "what it was")
    data = data_of(page)
    assert "<h1>a title</h1>" in page
    assert len(data["requests"]) == 10  # type: ignore[arg-type]
    assert len(data["steps"]) == len(recorder.steps)  # type: ignore[arg-type]
    assert not re.search(r"src=|href=(?!\"data:)|@import|fetch\(", page)


def test_a_title_cannot_break_out_of_the_page(recorder: Recorder) -> None:
    title = "</script><script>alert(1)</script>"
    page = recorder.page(title, title)
    assert page.count("</script>") == 1
    assert data_of(page)["description"] == title


def test_a_trace_of_nothing_is_a_page_too(make_idle: Callable[[], Recorder]) -> None:
    assert data_of(make_idle().page("", ""))["steps"] == []


@pytest.fixture
def make_idle(llm: LLM) -> Callable[[], Recorder]:
    return lambda: Recorder(llm.engine)
