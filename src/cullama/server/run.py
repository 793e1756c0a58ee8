"""Runs the server: binds the address, starts the engine process, serves until a signal comes.

SIGINT or SIGTERM: no new connections are taken, and answers that are being written may end within
GRACE_SECONDS. A second signal ends everything at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from ..checkpoint.opening import open_checkpoint
from ..checkpoint.weights import Progress
from ..errors import UsageError
from ..hub import resolve_model
from ..llm import LLM
from .api.service import Service
from .app import create_app
from .http.access import LOOPBACK, AccessRules
from .http.connection import BoundedProtocol
from .http.page import is_built
from .process.engine import RemoteEngine
from .process.messages import Load

__all__ = ["LOOPBACK", "AccessRules", "is_loopback", "listen", "open_service", "serve"]

log = logging.getLogger("cullama.server")

GRACE_SECONDS = 30
BACKLOG = 2048
SEND_BUFFER_BYTES = 64 << 10  # of a connection, so that a client that reads nothing is noticed


@dataclass(frozen=True)
class Listener:
    """A bound socket, and the address that people can open."""

    socket: socket.socket
    url: str

    @property
    def doors(self) -> str:
        """What is served where, in words."""
        api = f"OpenAI's API at {self.url}/v1"
        return f"the page at {self.url}/, {api}" if is_built() else api


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    return host in LOOPBACK or host.startswith("127.")


def listen(host: str, port: int, prefix: str = "") -> Listener:
    """Bind an address; port 0 takes a free one. Raises UsageError where it cannot be bound."""
    try:
        [family, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; "
            "choose another --host or --port"
        ) from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    shown = f"[{host}]" if ":" in host else host
    return Listener(bound, f"http://{shown}:{bound.getsockname()[1]}{prefix}")


def open_service(
    model: str | None,
    options: Mapping[str, Any],
    *,
    max_waiting: int = 256,
    step_timeout: float | None = None,
    chat_template: str | None = None,
    measures: bool = False,
    progress: Progress | None = None,
) -> Service:
    """Open a model's config, tokenizer and template here, and start its engine process.

    Args:
        model: as of `LLM`; fetched if need be.
        options: of `LLM`, for the engine process: backend, dtype, context_length …
        max_waiting, step_timeout: as of `RemoteEngine`.
        measures: measure the machine's limits before requests are taken, in about a second.
        progress: called with (done, total) bytes while the model is fetched.

    Raises:
        CullamaError: the model cannot be found, or its files are not what they should be.
    """
    path = resolve_model(model, progress)
    checkpoint = open_checkpoint(path)
    engine = RemoteEngine(Load(str(path), options, measures), max_waiting, step_timeout)
    try:
        context_length = options.get("context_length")
        llm = LLM.in_front_of(
            engine, checkpoint, context_length=context_length, chat_template=chat_template
        )
        _ = llm.tokenizer, llm.chat_format.stop_tokens  # so that what is damaged shows now
        # Which stops everything else for a moment: while the model is being loaded.
        threading.Thread(target=llm.grammars.warm_up, daemon=True).start()
    except BaseException:
        engine.close()
        raise
    return Service(llm, engine)


def make_server(service: Service, rules: AccessRules, prefix: str = "") -> _Server:
    """Return a server that is not running yet."""
    config = uvicorn.Config(
        create_app(service, rules, prefix),
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: uvicorn's own handling ends the process with them."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.on_start: Callable[[], None] = lambda: None  # called once it answers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    service: Service,
    listener: Listener,
    rules: AccessRules,
    prefix: str = "",
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal comes, or until the engine has failed for good.

    Args:
        on_start: called once the address answers.

    Raises:
        CullamaError: why the model cannot be loaded, or its process be kept running.
    """
    server = make_server(service, rules, prefix)
    server.on_start = on_start

    def stop(*signal_and_frame: object) -> None:
        if server.should_exit and signal_and_frame:
            os._exit(130)  # the engine process ends with this one
        if server.server_state.tasks:
            log.warning(
                "answers that are being written may end, for up to %d s; another Ctrl-C (or "
                "SIGTERM) ends them now",
                GRACE_SECONDS,
            )
        server.should_exit = service.is_ending = True

    service.engine.on_failure = stop
    if service.engine.status.state == "failed":  # before there was anything to stop
        stop()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    gc.collect()
    gc.freeze()  # a full collection over all that was imported takes 60 ms: no stream goes on then
    try:
        server.run([listener.socket])
    finally:
        service.engine.close()
    if service.engine.error is not None:
        raise service.engine.error
