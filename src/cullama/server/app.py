"""Puts the routes together: one FastAPI application for one served model."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ..errors import CullamaError
from ..version import __version__
from .api import (
    chat,
    check_form,
    completions,
    engine,
    layers,
    metrics,
    models,
    responses,
    streams,
    tokens,
)
from .api.openapi import openapi_document
from .api.service import Service
from .http.access import Access, AccessRules
from .http.bodies import JsonBodies
from .http.errors import ApiError, answer_error, answer_http_error, answer_invalid
from .http.events import ClientLeftError, answer_nothing
from .http.page import page_router, read_page

ROUTERS: tuple[APIRouter, ...] = (
    chat.router,
    completions.router,
    responses.router,
    models.router,
    tokens.router,
    check_form.router,
    layers.router,
    streams.router,
    engine.router,
    metrics.router,
)


def create_app(service: Service, rules: AccessRules, prefix: str = "") -> ASGIApp:
    """Return the application.

    Args:
        service: the served model.
        rules: who may ask.
        prefix: comes before every path, such as "/llama" behind a reverse proxy.
    """
    app = FastAPI(
        title="cullama",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url=f"{prefix}/openapi.json",
    )
    app.openapi = partial(openapi_document, app, prefix, bool(rules.api_keys))  # type: ignore[method-assign]
    app.state.service = service
    app.state.figures = metrics.Figures(service.engine)
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    shown = [route.path.replace(":path", "") for route in routes if route.include_in_schema]
    app.state.prefix, app.state.routes = prefix, routes
    # Each once, where it has several methods.
    app.state.paths = [f"{prefix}{path}" for path in dict.fromkeys(shown)]
    for router in ROUTERS:
        app.include_router(router, prefix=prefix)
    page = read_page()
    app.include_router(page_router(page, prefix))
    handlers: dict[Any, Any] = {
        RequestValidationError: answer_invalid,
        HTTPException: answer_http_error,
        ClientLeftError: answer_nothing,
        ApiError: answer_error,
        CullamaError: answer_error,
        Exception: answer_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    # Access first: whoever may not ask gets no body read.
    return Access(JsonBodies(app), rules, prefix, open_paths=("", "/", *page))
