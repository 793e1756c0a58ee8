"""The page's files: how they are served, and what is said where they were not built."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Coroutine
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from cullama.server.http.access import Access, AccessRules
from cullama.server.http.page import page_router, read_page

SCRIPT = b"console.log('cullama');\n" * 100
ASSET = "/assets/index-1a2b3c.js"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>cullama</title>")
    (tmp_path / "mark.svg").write_text("<svg/>")
    (tmp_path / "assets" / "index-1a2b3c.js").write_bytes(SCRIPT)
    (tmp_path / "notes.txt").write_text("not of the page")
    return tmp_path


def client(folder: Path, prefix: str = "", rules: AccessRules | None = None) -> httpx.AsyncClient:
    app, files = FastAPI(), read_page(folder)
    app.include_router(page_router(files, prefix))
    guarded = Access(app, rules or AccessRules(), prefix, open_paths=("", "/", *files))
    transport = httpx.ASGITransport(app=guarded)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def get(
    folder: Path, path: str, prefix: str = "", rules: AccessRules | None = None, **headers: str
) -> httpx.Response:
    async with client(folder, prefix, rules) as http:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.get(path, headers=names)


def run(request: Coroutine[None, None, httpx.Response]) -> httpx.Response:
    return asyncio.run(request)


def test_the_page_is_asked_for_each_time_and_not_sent_again(folder: Path) -> None:
    first = run(get(folder, "/"))
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/html")
    assert first.headers["cache-control"] == "no-cache"
    again = run(get(folder, "/", if_none_match=first.headers["etag"]))
    assert (again.status_code, again.content) == (304, b"")


def test_assets_are_kept_for_ever_and_sent_compressed(folder: Path) -> None:
    response = run(get(folder, ASSET, accept_encoding="gzip"))
    assert response.headers["content-encoding"] == "gzip"
    assert response.content == SCRIPT  # httpx reads gzip
    assert int(response.headers["content-length"]) == len(gzip.compress(SCRIPT, mtime=0))
    assert "immutable" in response.headers["cache-control"]
    plain = run(get(folder, ASSET, accept_encoding="identity"))
    assert "content-encoding" not in plain.headers
    assert plain.content == SCRIPT


@pytest.mark.parametrize("path", ["/", ASSET, "/mark.svg"])
def test_the_policy_allows_this_origin_alone(folder: Path, path: str) -> None:
    headers = run(get(folder, path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_under_a_prefix_the_page_is_a_folder(folder: Path) -> None:
    moved = run(get(folder, "/llama", "/llama"))
    assert (moved.status_code, moved.headers["location"]) == (308, "/llama/")
    assert run(get(folder, "/llama/", "/llama")).status_code == 200
    assert run(get(folder, f"/llama{ASSET}", "/llama")).content == SCRIPT
    assert run(get(folder, "/", "/llama")).status_code == 404


def test_the_page_needs_no_key_and_gives_nothing_else_away(folder: Path) -> None:
    rules = AccessRules(api_keys=["secret"])
    for path in ("/", ASSET, "/mark.svg"):
        assert run(get(folder, path, rules=rules)).status_code == 200
    for path in ("/notes.txt", "/assets/", "/assets/../notes.txt", "/v1/models"):
        assert run(get(folder, path, rules=rules)).status_code == 401


def test_only_the_pages_own_kinds_of_files_are_read(folder: Path) -> None:
    assert sorted(read_page(folder)) == [ASSET, "/index.html", "/mark.svg"]


def test_where_the_page_was_not_built_it_says_what_builds_it(tmp_path: Path) -> None:
    response = run(get(tmp_path / "nothing", "/"))
    assert response.status_code == 404
    assert "make web" in response.text
