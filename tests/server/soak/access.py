"""F8, F9: keys on every route, and other hosts' names and pages."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import product
from pathlib import Path

from fastapi.routing import APIRoute

from cullama.server.app import ROUTERS

from .figures import Figure, all_of
from .target import Target, completion, target

KEY = "k3y-of-the-soak"
WRONG = ["", "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY,
         f"Bearer {KEY.upper()}", f"bearer\t{KEY}", "Bearer \xff"]  # fmt: skip
HOSTS = ["evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.evil.example", "",
         "127.0.0.2", "0.0.0.0", "[::2]", "localhost@evil.example", "evil.example#localhost",
         "xn--lcalhost-54a", "localhost%00.evil.example", "2130706433", "["]  # fmt: skip
ORIGINS = ["https://evil.example", "null", "http://localhost.evil.example", "file://",
           "http://localhost:1", "https://localhost:1", "http://127.0.0.1", "chrome-extension://a",
           "http://localhost@evil.example", "javascript:0"]  # fmt: skip


def figures(model: Path, scale: float, seed: int) -> list[Figure]:
    del seed
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:  # which only its owner reads
        keys.write(KEY + "\n")
        keys.flush()
        with target(model, "--api-key-file", keys.name) as served:
            return asyncio.run(_figures(served, scale))


async def _figures(served: Target, scale: float) -> list[Figure]:
    routes = [
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path != "/health"
        for method in sorted(route.methods or ())
    ]
    routes.append(("GET", "/openapi.json"))
    asked = [*product(routes, WRONG)][:: max(1, int(0.1 / scale))]
    refused = 0
    for (method, path), key in asked:
        headers = {"Authorization": key} if key else {}
        refused += (await served.ask(method, path, headers=headers)).status == 401
    taken = {"Authorization": f"Bearer {KEY}"}
    answer = await served.ask("POST", "/v1/completions", completion(2), taken)
    hosts = [
        (await served.ask("GET", "/v1/models", headers={**taken, "Host": host})).status
        for host in HOSTS
    ]
    origins = [
        await served.ask("GET", "/v1/models", headers={**taken, "Origin": origin})
        for origin in ORIGINS
    ]
    let_in = sum("access-control-allow-origin" in each.headers for each in origins)
    return [
        all_of(f"F8 {len(routes)} routes, wrong keys", refused, len(asked), "refused"),
        all_of("F8 the right key", int(answer.status == 200), 1, "taken"),
        all_of("F9 other Hosts", sum(400 <= each < 404 for each in hosts), len(HOSTS), "refused"),
        all_of(
            "F9 other Origins",
            sum(each.status == 403 for each in origins) - let_in,
            len(ORIGINS),
            "refused, with no CORS header",
        ),
    ]
