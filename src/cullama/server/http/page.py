"""Serves the page: the files that `make web` builds into server/web, read once, at the server's own
origin.

Files under assets/ have names that change with what is in them, so that browsers keep them for
ever; the others are asked for each time, and mostly answered with 304.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

FOLDER = Path(__file__).resolve().parents[1] / "web"
INDEX = "/index.html"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
COMPRESSED = (".html", ".js", ".css", ".svg", ".webmanifest")

# Scripts, styles, requests and pictures of this origin alone: no inline ones, no plug-ins.
POLICY = (
    "default-src 'self'; object-src 'none'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
NOT_BUILT = (
    "The page is not built here. In the source folder `make web` builds it; then start the server "
    "again. The API works without it: see /openapi.json.\n"
)


@dataclass(frozen=True)
class PageFile:
    """One file of the page, as it is sent."""

    content: bytes
    compressed: bytes | None  # with gzip, where that makes it smaller
    media_type: str
    headers: Mapping[str, str]

    def response(self, request: Request) -> Response:
        headers = dict(self.headers)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        accepted = request.headers.get("accept-encoding", "")
        if self.compressed is not None and "gzip" in accepted:
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def is_built(folder: Path = FOLDER) -> bool:
    return (folder / "index.html").is_file()


def read_page(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Return the page's files by path, such as "/assets/index-1a2b.js"; none if it is not built."""
    if not is_built(folder):
        return {}
    return {
        f"/{path.relative_to(folder).as_posix()}": _page_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in MEDIA_TYPES
    }


def _page_file(path: Path) -> PageFile:
    content = path.read_bytes()
    small = gzip.compress(content, mtime=0) if path.suffix in COMPRESSED else content
    is_named_by_content = path.parent.name == "assets"
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "Cache-Control": "public, max-age=31536000, immutable"
        if is_named_by_content
        else "no-cache",
        "Content-Security-Policy": POLICY,
        "Vary": "Accept-Encoding",
    }
    compressed = small if len(small) < len(content) else None
    return PageFile(content, compressed, MEDIA_TYPES[path.suffix], headers)


def page_router(files: Mapping[str, PageFile], prefix: str = "") -> APIRouter:
    """Return the routes of the page: `/`, and each of its files; they are no part of the API."""
    router = APIRouter()

    async def page(request: Request) -> Response:
        if INDEX not in files:
            return Response(NOT_BUILT, 404, media_type="text/plain")
        return files[INDEX].response(request)

    async def file(request: Request) -> Response:
        return files[request.url.path.removeprefix(prefix)].response(request)

    async def to_page() -> Response:  # the page's own addresses are relative to its folder
        return RedirectResponse(f"{prefix}/", 308)

    methods = ["GET", "HEAD"]
    router.add_api_route(f"{prefix}/", page, methods=methods, include_in_schema=False)
    if prefix:
        router.add_api_route(prefix, to_page, methods=methods, include_in_schema=False)
    for path in files:
        router.add_api_route(f"{prefix}{path}", file, methods=methods, include_in_schema=False)
    return router
