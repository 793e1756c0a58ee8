"""A Hugging Face hub on 127.0.0.1, as far as huggingface_hub needs it, with faults that tests set.

`/api/models/OWNER/NAME/revision/REVISION` lists the files with sizes and hashes; `/OWNER/NAME/
resolve/COMMIT/FILE` sends one, whole or a range of it, with the headers of the real hub
(https://huggingface.co/docs/huggingface_hub/package_reference/file_download).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_ENOUGH_FOR_LFS = (
    100_000  # bytes; smaller files are identified by their git hash, as on the hub
)
PIECE = 50_000  # bytes that are sent at a time


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def digest_of(content: bytes) -> str:
    return sha256(content) if len(content) >= LARGE_ENOUGH_FOR_LFS else git_hash(content)


@dataclass
class Repository:
    """A model's files on the hub, and who may read them."""

    files: dict[str, bytes]
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)  # others than main
    token: str | None = None  # needed to read it
    is_gated: bool = False

    def at(self, revision: str) -> dict[str, bytes] | None:
        """Return the files at a branch or commit, None if it does not exist."""
        known = {"main": self.files, **self.revisions}
        return {commit_of(files): files for files in known.values()}.get(
            revision, known.get(revision)
        )


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(
        repr(sorted((n, digest_of(c)) for n, c in files.items())).encode()
    ).hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message


class HubServer(ThreadingHTTPServer):
    """Serves repositories, and keeps the requests; tests may change every public attribute."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.cuts: list[int] = []  # of the next transfers: bytes after which the line breaks
        self.wrong_bytes: set[str] = set()  # files sent with other bytes of the same length
        self.long_files: set[str] = set()  # files sent with bytes too many
        self.statuses: list[tuple[int, dict[str, str]]] = []  # with which the next are refused
        self.only_file_statuses = False  # whether those are for files, not for the API
        self.seconds_between_pieces = 0.0
        self.ignores_ranges = False
        self.elsewhere: str | None = None  # where files are sent from instead
        self.html: bytes | None = None  # what is answered to everything, as a captive portal does

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def transfers(self) -> list[Request]:
        return [one for one in self.requests if one.method == "GET" and "/resolve/" in one.path]

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that left


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms a request otherwise

    def do_HEAD(self) -> None:  # the name that http.server looks up
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(Request(self.command, unquote(path), self.headers))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if self.server.html is not None:
            self.send(200, self.server.html, {"Content-Type": "text/html"})
        elif self.server.statuses and (file or not self.server.only_file_statuses):
            status, headers = self.server.statuses.pop(0)
            self.send(status, b'{"error": "as the test asks"}', headers)
        elif api:
            self.answer_about(api[1], unquote(api[2] or "main"))
        elif file:
            self.answer_file(file[1], unquote(file[2]), unquote(file[3]))
        else:
            self.send(404, b"{}")

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def files_of(self, name: str, revision: str) -> dict[str, bytes] | None:
        """Return a repository's files; send an error and return None if it cannot be read."""
        repository = self.server.repositories.get(name)
        files = repository.at(revision) if repository else None
        if repository is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        if repository.token and self.headers["Authorization"] != f"Bearer {repository.token}":
            status = 403 if self.headers["Authorization"] else 401
            gate = {"X-Error-Code": "GatedRepo"} if repository.is_gated else {}
            self.send(status, b'{"error": "Access is restricted."}', gate)
            return None
        if files is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return files

    def answer_about(self, name: str, revision: str) -> None:
        files = self.files_of(name, revision)
        if files is None:
            return
        siblings = [_sibling(path, content) for path, content in files.items()]
        about = {"id": name, "sha": commit_of(files), "siblings": siblings}
        self.send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def answer_file(self, name: str, revision: str, path: str) -> None:
        if self.server.elsewhere:
            self.send(302, b"", {"Location": self.server.elsewhere + self.path})
            return
        files = self.files_of(name, revision)
        if files is None:
            return
        if path not in files:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        self.send_file(path, files[path], commit_of(files))

    def send_file(self, path: str, content: bytes, commit: str) -> None:
        digest, size = digest_of(content), len(content)
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": commit}
        headers |= {"X-Linked-Size": str(size), "Accept-Ranges": "bytes"}
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if path in self.server.wrong_bytes:
            content = bytes(size)
        if path in self.server.long_files:
            content += b"more"
        if asked and not self.server.ignores_ranges:
            status, headers["Content-Range"] = 206, f"bytes {asked[1]}-{size - 1}/{size}"
            content = content[int(asked[1]) :]
        if self.command == "HEAD":
            self.send(status, b"", headers | {"Content-Length": str(size)})
            return
        self.send(status, b"", headers | {"Content-Length": str(len(content))})
        self.send_pieces(content)

    def send_pieces(self, content: bytes) -> None:
        cut = self.server.cuts.pop(0) if self.server.cuts and len(content) > PIECE else None
        content = content[:cut]
        for start in range(0, len(content), PIECE):
            self.wfile.write(content[start : start + PIECE])
            time.sleep(self.server.seconds_between_pieces)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
    if len(content) >= LARGE_ENOUGH_FOR_LFS:
        about["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
    return about
