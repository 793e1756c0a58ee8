"""GET /metrics: Prometheus' figures of the engine and of the HTTP side. Numbers only.

Counters are the engine process's own: they begin anew with it, which Prometheus understands as a
restart.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from ...engine.metrics import Metrics
from ..process.engine import RemoteEngine

router = APIRouter()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_COUNTERS = {
    "steps": "Passes of the model.",
    "prompt_tokens": "Prompt tokens of admitted requests.",
    "cached_tokens": "Prompt tokens found in the prefix cache.",
    "drawn_tokens": "Tokens drawn.",
    "draft_tokens": "Draft tokens proposed.",
    "accepted_tokens": "Draft tokens accepted.",
    "preemptions": "Requests that gave their blocks up for others.",
}


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Return all figures in Prometheus' text format."""
    return Response(generate_latest(request.app.state.figures.registry), media_type=CONTENT_TYPE)


class Figures(Collector):
    """Collects from the engine when asked; times are observed as they pass."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._step = Histogram(
            "cullama_step_seconds",
            "Duration of a pass, scheduling included.",
            buckets=SECONDS,
            registry=self.registry,
        )
        engine.observers.append(lambda record: self._step.observe(record.seconds))

    def collect(self) -> Iterator[Metric]:
        engine: Metrics = self._engine.metrics
        for name, words in _COUNTERS.items():
            yield CounterMetricFamily(f"cullama_{name}", words, getattr(engine, name))
        ended = CounterMetricFamily("cullama_requests", "Requests that ended.", labels=["reason"])
        for reason, number in engine.ended.items():
            ended.add_metric([reason], number)
        yield ended
        restarts = self._engine.restarts
        yield CounterMetricFamily("cullama_engine_restarts", "Engine processes replaced.", restarts)
        gauges = [
            ("ready", "1 where requests are taken.", self._engine.status.state == "ready"),
            ("requests_unfinished", "Requests waiting or running.", self._engine.num_running),
        ]
        if (last := self._engine.last_record) is not None:
            gauges += [
                ("requests_waiting", "Requests not admitted yet.", last.waiting),
                ("blocks_free", "KV cache blocks that hold nothing.", last.blocks_free),
                ("blocks_cached", "KV cache blocks that can be evicted.", last.blocks_cached),
                ("blocks_referenced", "KV cache blocks of requests.", last.blocks_referenced),
            ]
        for name, words, value in gauges:
            yield GaugeMetricFamily(f"cullama_{name}", words, value)
