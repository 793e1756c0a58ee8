"""The examples in the server's manual are run as they stand, against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import LiveServer

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("server.md", "server-examples.md")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SECONDS = 60


def examples(kind: str, contains: str) -> list[object]:
    return [
        pytest.param(body, id=f"{page}-{number}")
        for page in PAGES
        for number, (found, body) in enumerate(FENCED.findall((DOCS / page).read_text()))
        if found == kind
        and contains in body
        # The tiny model's template writes no tools.
        and not body.startswith("# skip: ")
        and "tools" not in body
    ]


def run(command: list[str], example: str, server: LiveServer) -> str:
    here = example.replace(ADDRESS, server.url).replace(MODEL, server.service.model)
    ended = subprocess.run(
        [*command, here], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("example", examples("sh", "curl"))
def test_what_the_manual_asks_with_curl_is_answered(server: LiveServer, example: str) -> None:
    printed = run(["bash", "-euc", "-o", "pipefail"], example, server)
    assert printed
    assert not re.search(r'^(data: )?\{"error"', printed, re.MULTILINE)


@pytest.mark.parametrize("example", examples("python", ADDRESS))
def test_the_programs_in_the_manual_run(server: LiveServer, example: str) -> None:
    printed = run([sys.executable, "-W", "error", "-c"], example, server)
    assert printed


def test_every_route_has_an_example(server: LiveServer) -> None:
    text = "\n".join((DOCS / page).read_text() for page in PAGES)
    code = "\n".join(body for _, body in FENCED.findall(text))
    for path in server.http.get("/openapi.json").json()["paths"]:
        route = path.partition("/{")[0]
        assert f"{route}" in code or route in ("/v1/responses", "/"), path
