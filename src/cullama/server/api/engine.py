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
    known = 0  # passes
    while not service.is_ending:
        state = _state(service)
        count, known = service.engine.num_passes - known, service.engine.num_passes
        newest = list(service.engine.passes)
        state["passes"] = [
            {
                "seconds": round(it.seconds, 6),
                "decode_tokens": it.tokens - it.prefill_tokens,
                "prefill_tokens": it.prefill_tokens,
            }
            for it in newest[max(0, len(newest) - count) :]
        ]
        yield event(state)
        if once:
            return
        await asyncio.sleep(PERIOD)


def _state(service: Service) -> Json:
    """Return requests with their progress, the last pass, the cache's blocks, and totals.

    `requests`: in the order they came; `stage` is "waiting" (or in prefill) before the first token.
    `last_pass`: of the fields of `engine.trace.StepRecord`; null before the first. `roofline`: of
    the last second's passes; null where there were none.
    """
    remote = service.engine
    last, size = remote.last_record, remote.block_size
    count = remote.capacity.cache_tokens // size if remote.costs else 0
    return {
        "status": asdict(remote.status),
        "requests": remote.progress(),
        "last_pass": asdict(last) if last else None,
        "blocks": {  # all are free before the first pass
            "size": size,
            "count": count,
            "free": last.blocks_free if last else count,
            "cached": last.blocks_cached if last else 0,
            "referenced": last.blocks_referenced if last else 0,
        },
        "roofline": remote.roofline.figures(remote.costs) if remote.costs else None,
        "totals": remote.metrics.as_json(),
        "restarts": remote.restarts,
    }
