"""A server to ask: a model behind a real engine process, on a port of this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI
from openai_forms import check_answer, check_event

from cullama.server import run
from cullama.server.api.service import Service
from cullama.server.http.access import AccessRules

OPTIONS: dict[str, Any] = {"backend": "cpu:numpy", "threads": 1}  # of the model, here and there


@dataclass
class LiveServer:
    """A server in a thread of this process; its model runs in a process of its own."""

    url: str
    service: Service
    http: httpx.Client = field(init=False)
    openai: OpenAI = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.openai = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, body: Any) -> httpx.Response:
        """Return an answer that has OpenAI's form, whatever its status."""
        response = self.http.post(path, json=body)
        if response.headers["content-type"] == "application/json":
            check_answer(path, response.json())
        return response

    def events(self, path: str, body: Any) -> list[Any]:
        """Return the JSON of all events of a stream, up to [DONE]; each has OpenAI's form."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
        data = [line.removeprefix("data: ") for line in lines]
        assert data[-1] == "[DONE]"
        events = [json.loads(line) for line in data[:-1]]
        for each in events:
            check_event(path, each)
        return events


@contextmanager
def live_server(
    model: Path,
    rules: AccessRules | None = None,
    prefix: str = "",
    options: Mapping[str, Any] = OPTIONS,
    **settings: Any,
) -> Iterator[LiveServer]:
    """Serve a model with these options of `LLM`; `settings` are those of `open_service`."""
    listener = run.listen("127.0.0.1", 0, prefix)
    service = run.open_service(str(model), options, **settings)
    server = run.make_server(service, rules or AccessRules(), prefix)
    thread = threading.Thread(target=server.run, args=([listener.socket],), daemon=True)
    thread.start()
    try:
        service.engine.wait_until_ready(60)
        while not server.started:
            time.sleep(0.01)
        live = LiveServer(listener.url, service)
        with live.http, live.openai:
            yield live
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        service.engine.close()
        assert not thread.is_alive()
