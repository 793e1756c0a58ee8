"""GET /v1/models, /health, /props: what is served, and whether it can be used now."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..http.errors import RETRY_SECONDS, ApiError
from .answers import Json
from .service import Service, service_of

router = APIRouter()


@router.get("/v1/models")
def models(request: Request) -> Json:
    """List the one model that is served."""
    return {"object": "list", "data": [_model(service_of(request))]}


@router.get("/v1/models/{name:path}")
def model(request: Request, name: str) -> Json:
    """Describe the model that is served."""
    service = service_of(request)
    service.check_model(name)
    return _model(service)


@router.get("/health", response_class=JSONResponse)
def health(request: Request) -> Response:
    """Return 200 where requests are taken, or 503 and the reason why they are not.

    `progress`: how many weights of the model were read, and of how many; null while none are.
    """
    service = service_of(request)
    status = service.engine.status
    if status.state == "ready":
        return JSONResponse({"status": "ok", "reason": status.reason, "progress": None})
    done, total = status.loaded or (0, 0)
    body = {
        "status": status.state,
        "reason": status.reason,
        "progress": {"model": service.model, "done": done, "total": total} if total else None,
    }
    return JSONResponse(body, 503, {"Retry-After": str(RETRY_SECONDS)})


@router.get("/props")
def props(request: Request) -> Json:
    """Describe model, device, context and the sampling that requests start from.

    `costs`: what passes of the model read and compute, and the machine's limits where they were
    measured; `roofline`: how near the last second's passes came to them.
    """
    service = service_of(request)
    defaults: dict[str, Any] = asdict(service.llm.default_params)
    costs, roofline = service.engine.costs, service.engine.roofline
    figures = roofline.figures(costs) if costs else None
    return {
        "model": service.model,
        "description": service.engine.description,
        "fingerprint": service.fingerprint,
        "context_length": service.llm.context_length,
        "cache_tokens": service.engine.capacity.cache_tokens,
        "block_size": service.engine.block_size,
        "vocab_size": service.engine.capacity.vocab_size,
        "has_layers": True,  # of every backend
        "costs": asdict(roofline.raised(costs)) if costs else None,
        "roofline": figures,
        "default_params": defaults,
        "has_chat_template": service.llm.chat_template is not None,
        "engine_restarts": service.engine.restarts,
    }


def _model(service: Service) -> Json:
    return {
        "id": service.model,
        "object": "model",
        "created": int(service.started),
        "owned_by": "cullama",
        "meta": {"context_length": service.llm.context_length},
    }


NOT_OFFERED = {
    "/v1/embeddings": "embeddings need a model trained for them",
    "/v1/moderations": "there is no moderation model here",
    "/v1/images/generations": "this model writes text",
    "/v1/audio/speech": "this model writes text",
    "/v1/audio/transcriptions": "this model reads text",
    "/v1/audio/translations": "this model reads text",
    "/v1/files": "files are not kept",
    "/v1/batches": "batches are not kept; requests that come together are run together anyway",
    "/v1/fine_tuning/jobs": "models are not trained here",
    "/v1/assistants": "assistants are not kept; use /v1/chat/completions",
    "/v1/threads": "conversations are not kept; use /v1/chat/completions",
}


def _refuse(reason: str) -> Any:
    async def refuse() -> None:
        raise ApiError(501, f"not offered: {reason}", code="not_implemented")

    return refuse


for _path, _reason in NOT_OFFERED.items():
    router.add_api_route(_path, _refuse(_reason), methods=["GET", "POST"], include_in_schema=False)
