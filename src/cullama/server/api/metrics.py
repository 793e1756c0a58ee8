"""GET /metrics: Prometheus' figures of the engine and of the HTTP side. Numbers only.

Counters are the engine process's own: they begin anew with it, which Prometheus understands as a
restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from ...engine.metrics import Metrics
from ..process.engine import RemoteEngine
from ..process.latency import Buckets

router = APIRouter()

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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
async def metrics(request: Request) -> Response:
    """Return all figures in Prometheus' text format."""
    return Response(generate_latest(request.app.state.figures.registry), media_type=CONTENT_TYPE)


class Figures(Collector):
    """Collects from the engine when asked; times are observed as they pass."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._steps = Buckets()
        engine.observers.append(lambda record: self._steps.add(record.seconds))

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
        latency = self._engine.latency
        for name, words, buckets in (
            ("step", "Duration of a pass, scheduling included.", self._steps),
            ("queue", "From a request to the first pass it takes part in.", latency.queue),
            ("first_token", "From a request to its first token.", latency.first_token),
            ("inter_token", "Between tokens of an answer.", latency.between_tokens),
            ("request", "From a request to its end.", latency.whole),
        ):
            yield HistogramMetricFamily(
                f"cullama_{name}_seconds", words, buckets.cumulative, buckets.total
            )
        gauges = [
            ("ready", "1 where requests are taken.", self._engine.status.state == "ready"),
            ("requests_unfinished", "Requests waiting or running.", self._engine.num_running),
            ("tasks", "Tasks of the HTTP side's event loop.", len(asyncio.all_tasks())),
        ]
        if (last := self._engine.last_record) is not None:
            gauges += [
                ("requests_waiting", "Requests not admitted yet.", last.waiting),
                (
                    "requests_running",
                    "Requests with blocks of the KV cache.",
                    max(0, self._engine.num_running - last.waiting),
                ),
                ("blocks_free", "KV cache blocks that hold nothing.", last.blocks_free),
                ("blocks_cached", "KV cache blocks that can be evicted.", last.blocks_cached),
                ("blocks_referenced", "KV cache blocks of requests.", last.blocks_referenced),
            ]
        for name, words, value in gauges:
            yield GaugeMetricFamily(f"cullama_{name}", words, value)
