"""GET /engine: what the engine is doing, as events, four times a second. Numbers, never texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..http.events import EventStream
from .answers import Json, event
from .service import Service, service_of

router = APIRouter()

PERIOD = 0.25  # seconds


@router.get("/engine", response_class=Response)
async def engine(request: Request, once: bool = False) -> Response:
    """Send the engine's state, again and again; `once`: only now."""
    return EventStream(_states(service_of(request), once))


async def _states(service: Service, once: bool) -> AsyncGenerator[bytes, None]:
    while not service.is_ending:
        yield event(_state(service))
        if once:
            return
        await asyncio.sleep(PERIOD)


def _state(service: Service) -> Json:
    """Return requests with their progress, the last pass, the cache's blocks, and totals.

    `requests`: in the order they came; `stage` is "waiting" (or in prefill) before the first token.
    `last_pass`: of the fields of `engine.trace.StepRecord`; null before the first.
    """
    remote = service.engine
    return {
        "status": asdict(remote.status),
        "requests": remote.progress(),
        "last_pass": asdict(remote.last_record) if remote.last_record else None,
        "totals": remote.metrics.as_json(),
        "restarts": remote.restarts,
    }
