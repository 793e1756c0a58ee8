"""/v1/streams/ID: the rest of a stream whose connection was lost, or its end.

A completion with `stream` and `resumable` can be read again from any of its events on.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from ..http.events import EventStream
from .service import service_of

router = APIRouter()


@router.get("/v1/streams/{id}", response_class=Response)
async def resume(
    request: Request,
    id: str,
    start: Annotated[int | None, Query(alias="from", ge=0)] = None,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> Response:
    """Send the events behind the first `from` ones, or behind the `Last-Event-ID`."""
    stream = service_of(request).streams.get(id)
    first = start if start is not None else last_event_id or 0
    stream.check_start(first)
    return EventStream(stream.read(first))


@router.delete("/v1/streams/{id}")
async def cancel(request: Request, id: str) -> dict[str, object]:
    """Cancel the request; what it has given can still be read."""
    stream = service_of(request).streams.get(id)
    stream.cancel()
    return {"id": id, "object": "stream.cancelled", "events": stream.num_events}
